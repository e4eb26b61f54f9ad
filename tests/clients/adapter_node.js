// SPDX-License-Identifier: Apache-2.0
//
// The adapter of client/node. See README.md here.
'use strict';

const path = require('node:path');
const readline = require('node:readline');
const { LockKeeper, LockHeldError, LostActorLockError } = require(
  path.join(__dirname, '../../client/node/lock_keeper.js'));

let keeper = null;
const leases = new Map();
const aborters = new Map();

function say(words, members = {}) {
  const said = Object.entries(members).filter(([, value]) => value !== undefined);
  process.stdout.write([...words, ...said.map(([name, value]) => `${name}=${value}`)].join(' ') + '\n');
}

function refused(name, error) {
  const members = {};
  if (error instanceof LockHeldError) {
    members.holder = error.holder.label;
    members.retry_after = error.retryAfter ?? 'none';
  } else if (error instanceof LostActorLockError) {
    members.reason = error.reason;
  }
  say(['refused', name, error.name === 'AbortError' ? 'errCancelled' : error.code], members);
}

function optionsOf(words) {
  const options = Object.fromEntries(words.map((word) => word.split('=')));
  for (const name of ['wait', 'ttl', 'deadline']) {
    if (name in options) options[name] = Number(options[name]);
  }
  if (options.wait < 0) options.wait = Infinity;
  if (options.bind === 'pid') options.pid = process.pid;
  return options;
}

async function acquire(name, key, options) {
  try {
    const lease = await keeper.acquire(key, options);
    leases.set(name, lease);
    say(['granted', name], { fence: lease.fence, ttl: lease.ttl, deadline: lease.deadline });
    const lost = () => say(['lost', name], { reason: lease.lost.reason, safe: lease.lost.safe });
    if (lease.signal.aborted) lost();
    else lease.signal.addEventListener('abort', lost);
  } catch (error) {
    refused(name, error);
  }
}

async function release(name) {
  try {
    say(['released', name], { freed: await leases.get(name).release() });
  } catch (error) {
    refused(name, error);
  }
}

const commands = {
  open: (socket, timeout) => {
    keeper = new LockKeeper({ socket, timeout: Number(timeout) });
  },
  acquire: (name, key, ...words) => {
    aborters.set(name, new AbortController());
    acquire(name, key, { ...optionsOf(words), signal: aborters.get(name).signal });
  },
  cancel: (name) => aborters.get(name).abort(),
  release: (name) => release(name),
  valid: (name) => say(['valid', name, String(leases.get(name).valid())]),
  quit: () => input.close(),
};

const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => {
  const [command, ...words] = line.split(' ');
  commands[command](...words);
});
input.on('close', () => keeper?.close());
