// SPDX-License-Identifier: Apache-2.0
//
// The lock clients of Node, measured as lock-keeper is. One line of JSON.
//
//     node peer.js REDIS redlock|redis-semaphore pairs IN-FLIGHT MS
//                                                handover MS
//                                                renew LEASES MS
//                                                memory LEASES
'use strict';

const path = require('path');
const { createRequire } = require('module');
const library = createRequire(path.join(process.env.LOCK_KEEPER_PEERS, 'package.json'));
const Redis = library('ioredis');

const [redisPath, name, what, ...rest] = process.argv.slice(2);
const numbers = rest.map(Number);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const nowMs = () => Number(process.hrtime.bigint()) / 1e6;

// Each makes lockers: acquire(key) waits and resolves to a function that releases.
const makers = {
    redlock(redis, options) {
        const { default: Redlock } = library('redlock');
        const redlock = new Redlock([redis], { retryCount: -1 });
        redlock.on('error', () => {});
        return {
            async acquire(key) {
                const lock = await redlock.acquire([key], options.ttl);
                return () => lock.release();
            },
            // `using` renews by itself; it resolves when the work does.
            async hold(key, until) {
                await redlock.using([key], options.ttl, { automaticExtensionThreshold: options.ttl * 2 / 3 },
                    () => until);
            },
        };
    },
    'redis-semaphore'(redis, options) {
        const { Mutex } = library('redis-semaphore');
        const make = (key, refreshInterval) => new Mutex(redis, key, {
            lockTimeout: options.ttl, refreshInterval, acquireTimeout: 600000,
        });
        return {
            async acquire(key) {
                const mutex = make(key, 0);
                await mutex.acquire();
                return () => mutex.release();
            },
            async hold(key, until) {
                const mutex = make(key, options.ttl / 3);
                await mutex.acquire();
                await until;
                await mutex.release();
            },
        };
    },
};

const connect = () => new Redis(redisPath);
const locker = (options) => makers[name](connect(), { ttl: 30000, ...options });
const keyOf = (n) => `lock:peer${process.pid}:${String(n).padStart(6, '0')}`;

async function pairs(inFlight, ms) {
    const lock = locker();
    const endMs = nowMs() + ms * 1.1;
    const startMs = nowMs() + ms * 0.1;
    const times = [];
    await Promise.all(Array.from({ length: inFlight }, async (_, n) => {
        for (let before = nowMs(); before < endMs;) {
            const release = await lock.acquire(keyOf(n));
            await release();
            const after = nowMs();
            if (before >= startMs) {
                times.push(after - before);
            }
            before = after;
        }
    }));
    times.sort((a, b) => a - b);
    const at = (share) => 1000 * times[Math.floor(share * (times.length - 1))];
    return { per_second: times.length * 1000 / (nowMs() - startMs), p50_us: at(0.5), p99_us: at(0.99) };
}

async function handover(ms) {
    const sides = [locker(), locker()];
    const times = [];
    const endMs = nowMs() + ms;
    let release = await sides[0].acquire(keyOf(0));
    for (let at = 1; nowMs() < endMs; at = 1 - at) {
        const waiting = sides[at].acquire(keyOf(0));
        await sleep(5 + Math.random() * 200); // at any moment of its polling
        const before = nowMs();
        await release();
        release = await waiting;
        times.push(nowMs() - before);
    }
    times.sort((a, b) => a - b);
    return { p50_us: 1000 * times[Math.floor(times.length / 2)] };
}

// Ends `until`, when it has held so many for the time that work took.
async function holding(count, ttl, work) {
    const lock = locker({ ttl });
    let stop;
    const until = new Promise((resolve) => { stop = resolve; });
    const held = [];
    for (let n = 0; n < count; n++) {
        held.push(lock.hold(keyOf(n), until).catch(() => {}));
        if (n % 256 === 255) {
            await sleep(5);
        }
    }
    await sleep(ttl / 2);
    const result = await work();
    stop();
    await Promise.all(held);
    return result;
}

function renew(count, ms) {
    return holding(count, 3000, async () => {
        const before = process.cpuUsage();
        const startMs = nowMs();
        await sleep(ms);
        const { user, system } = process.cpuUsage(before);
        return { cpu_percent: (user + system) / 10 / (nowMs() - startMs) };
    });
}

// What lives, not what is resident: Node keeps the room of what it has collected.
async function memory(count) {
    const used = () => {
        global.gc();
        const { heapUsed, external } = process.memoryUsage();
        return heapUsed + external;
    };
    await pairs(64, 200);
    const before = used();
    return holding(count, 20000, async () => ({ bytes_each: (used() - before) / count }));
}

({ pairs, handover, renew, memory })[what](...numbers).then((result) => {
    console.log(JSON.stringify(result));
    process.exit(0);
}, (error) => {
    console.error(error);
    process.exit(1);
});
