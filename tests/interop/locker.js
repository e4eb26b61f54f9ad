// SPDX-License-Identifier: Apache-2.0
//
// redlock and redis-semaphore, told what to do line by line: see locker.h. Their packages are found
// through NODE_PATH.
//
//   node locker.js redlock|redis-semaphore SOCKET KEY
'use strict'

const readline = require('readline')
const Redis = require('ioredis')

const [kind, socket, key] = process.argv.slice(2)
const TTL_MS = 60000
const RETRY_MS = 3

function say(word) {
    process.stdout.write(word + '\n')
}

const lockers = {
    redlock() {
        const Redlock = require('redlock')
        const client = new Redis({ path: socket })
        const waiting = new Redlock([client], { retryCount: -1, retryDelay: RETRY_MS, retryJitter: 2 })
        const once = new Redlock([client], { retryCount: 0 })
        let held
        return {
            client,
            lock: async () => { held = await waiting.lock(key, TTL_MS) },
            try: async () => { held = await once.lock(key, TTL_MS) },
            unlock: () => held.unlock(),
        }
    },
    // Its keys begin with "mutex:", so ours, "lock:mutex:...", begin with ioredis' keyPrefix.
    'redis-semaphore'() {
        const { Mutex } = require('redis-semaphore')
        const [prefix, name] = key.split('mutex:')
        const client = new Redis({ path: socket, keyPrefix: prefix })
        const options = { lockTimeout: TTL_MS, retryInterval: RETRY_MS, refreshInterval: 0 }
        const waiting = new Mutex(client, name, { ...options, acquireTimeout: TTL_MS })
        const once = new Mutex(client, name, { ...options, acquireAttemptsLimit: 1 })
        let held
        const acquire = async (mutex) => { await mutex.acquire(); held = mutex }
        return {
            client,
            lock: () => acquire(waiting),
            try: () => acquire(once),
            // It does not say whether it found its own value: that is asked before.
            unlock: async () => {
                if (await client.get('mutex:' + name) !== held.identifier)
                    throw new Error('lost')
                await held.release()
            },
        }
    },
}

async function serve(locker) {
    await locker.client.ping()
    say('ready')
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const command = line.trim()
        if (command === 'unlock')
            say('unlocking')
        try {
            await locker[command]()
            say(command === 'unlock' ? 'unlocked' : 'locked')
        } catch (error) {
            say(command === 'unlock' ? 'lost' : 'refused')
        }
    }
    locker.client.disconnect()
}

serve(lockers[kind]())
