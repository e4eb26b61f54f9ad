// SPDX-License-Identifier: Apache-2.0
//
// Client for the lock-keeper sidecar: hold Redis locks, and hear of it before one is lost. What is
// exported has its types and its documentation in lock_keeper.d.ts.
//
// One connection serves all leases and requests of a LockKeeper. A lease stands in #leases from its
// grant until it is lost, or its release was answered; while it is `released` there, its key is still
// to be given back. When the connection ends, the leases stay: the next sidecar is asked to adopt
// them. One that nobody has confirmed in time is lost, and its holder is told while nobody else can
// have the key.
//
// The clock is that of the protocol, CLOCK_BOOTTIME, read as os.uptime(): that is in hundredths of a
// second, and in a container it may begin elsewhere. So each `hello` compares it with the sidecar's
// (#offset), and what was cut off is added to every reading that must not be too early.
'use strict';

const net = require('node:net');
const os = require('node:os');

const DEFAULT_SOCKET = '/run/lock-keeper/lock-keeper.sock';
const PROTOCOL = 1;
const MAX_LINE = 1 << 20; // of the sidecar's; more is no lock-keeper
const RETRY_MS = 20; // between attempts to connect, doubling up to
const RETRY_MAX_MS = 250;
const ADOPT_RETRY_MS = 100;
const CLOCK_STEP_MS = 10;
const MAX_TIMER_MS = 60_000;

const clockMs = () => os.uptime() * 1000 + CLOCK_STEP_MS; // never behind the real one

// ---- Errors ----

class LockKeeperError extends Error {
  constructor(reply) {
    super(`${reply.error}: ${reply.message ?? ''}`);
    this.name = new.target.name;
    this.code = reply.error;
    this.reply = reply;
  }
}

class LockHeldError extends LockKeeperError {
  get holder() {
    return this.reply.holder ?? {};
  }

  get retryAfter() {
    return this.reply.retry_after_ms ?? null;
  }
}

class LostActorLockError extends LockKeeperError {
  get reason() {
    return this.reply.reason ?? 'lost';
  }

  get safe() {
    return this.reply.safe_ms ?? 0;
  }
}

class SidecarUnavailableError extends LockKeeperError {}

const CLASSES = {
  errLockHeld: LockHeldError,
  errLostActorLock: LostActorLockError,
  errSidecarUnavailable: SidecarUnavailableError,
};

function errorOf(reply) {
  return new (CLASSES[reply.error] ?? LockKeeperError)(reply);
}

function refusal(error, message) {
  return { ok: false, error, message };
}

// ---- Lease ----

class Lease {
  #keeper;
  #token;
  #lost = null;
  #released = false;
  #seen = false; // the program knows of the loss
  #controller = new AbortController();

  constructor(keeper, members, grant) {
    this.#keeper = keeper;
    this.#token = grant.lease;
    this.key = members.key;
    this.fence = grant.fence;
    this.ttl = grant.ttl_ms;
    this.deadline = grant.deadline_ms;
    this.waited = grant.waited_ms ?? 0;
    // What only the LockKeeper touches.
    Object.defineProperty(this, '_inside', {
      value: {
        binding: Object.fromEntries(
          ['bind', 'pid', 'on_disconnect'].filter((n) => n in members).map((n) => [n, members[n]])),
        until: 0,
        margin: 0,
        confirmed: false, // on the connection of now
        adoptAt: null, // when to ask again
        crossed: null, // a revoked that crossed our release
        lose: (error) => {
          this.#lost = error;
          this.#controller.abort(error);
        },
        give: () => {
          this.#released = true;
        },
      },
    });
  }

  get token() {
    return this.#token;
  }

  get signal() {
    return this.#controller.signal;
  }

  get lost() {
    return this.#lost;
  }

  get released() {
    return this.#released;
  }

  remaining() {
    return this.#lost || this.#released ? 0 : Math.max(0, this._inside.until - clockMs());
  }

  valid() {
    return this.remaining() > 0;
  }

  check() {
    if (this.valid()) return;
    if (!this.#lost && !this.#released) this.#keeper._expired(this);
    this.#seen = true;
    throw this.#lost ?? new LostActorLockError({
      error: 'errLostActorLock', reason: 'released', message: 'the lease was released' });
  }

  async release() {
    this.#seen = true;
    return this.#keeper._release(this);
  }

  async extend(deadline) {
    const reply = await this.#keeper._call(
      { op: 'extend', lease: this.#token, deadline_ms: Math.round(deadline) });
    this.deadline = reply.deadline_ms;
    return this.deadline;
  }

  async _dispose() {
    const seen = this.#seen;
    try {
      await this.release();
    } catch (error) {
      if (!seen || error !== this.#lost) throw error;
    }
  }

  toJSON() {
    return { key: this.key, fence: this.fence };
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Lease.prototype, Symbol.asyncDispose, { value: Lease.prototype._dispose });
}

// ---- LockKeeper ----

function acquireMembers(key, options) {
  const members = { op: 'acquire', key };
  const names = {
    ttl: 'ttl_ms', deadline: 'deadline_ms', label: 'label', bind: 'bind', pid: 'pid',
    onDisconnect: 'on_disconnect',
  };
  for (const [name, member] of Object.entries(names)) {
    if (options[name] !== undefined) members[member] = options[name];
  }
  for (const member of ['ttl_ms', 'deadline_ms']) {
    if (member in members) members[member] = Math.round(members[member]);
  }
  return members;
}

class LockKeeper {
  #path;
  #timeout;
  #socket = null;
  #link = 'down'; // then hello (asked for), up
  #closed = false;
  #hello = {};
  #askedAt = 0;
  #offset = 0; // from the sidecar's clock to clockMs
  #inbox = '';
  #lastWords = null;
  #why = null; // there is no connection
  #retry = 0;
  #retryAt = 0;
  #lastId = 0;
  #leases = new Map(); // by token
  #requests = new Map(); // by id: { members, onReply, until, timed, sent, expires }
  #timer = null;

  constructor(options = {}) {
    const { socket, timeout = 10_000 } = typeof options === 'string' ? { socket: options } : options;
    this.#path = socket || process.env.LOCK_KEEPER_SOCKET || DEFAULT_SOCKET;
    this.#timeout = timeout;
  }

  // -- What the program asks for --

  async acquire(key, options = {}) {
    return this.#grant(acquireMembers(key, options), options.wait ?? 0, options.signal);
  }

  async adopt(key, token, options = {}) {
    const members = { ...acquireMembers(key, options), op: 'adopt', lease: token };
    return this.#grant(members, 0, options.signal);
  }

  async withLease(key, options, work) {
    const lease = await this.acquire(key, options);
    let result;
    try {
      result = await work(lease);
    } catch (error) {
      await lease.release().catch(() => {}); // what the work says goes before
      throw error;
    }
    await lease.release();
    return result;
  }

  hello() {
    return this._call({ op: 'hello' });
  }

  ping() {
    return this._call({ op: 'ping' });
  }

  inspect(key) {
    return this._call({ op: 'inspect', key });
  }

  async list() {
    const rows = [];
    let page = await this._call({ op: 'list', limit: 500 });
    rows.push(...page.leases);
    while (page.next !== undefined) {
      page = await this._call({ op: 'list', limit: 500, after: page.next });
      rows.push(...page.leases);
    }
    return rows;
  }

  async breakLock(key, grace = 0) {
    return (await this._call({ op: 'break', key, grace_ms: Math.round(grace) })).broken;
  }

  close() {
    this.#closed = true;
    this.#dropLink();
    for (const lease of [...this.#leases.values()]) {
      this.#lose(lease, 'closed', { message: 'the client was closed', safe_ms: 0 });
    }
    for (const id of [...this.#requests.keys()]) {
      this.#finish(id, refusal('errSidecarUnavailable', 'the client was closed'));
    }
    this.#arm();
  }

  #grant(members, wait, signal) {
    return new Promise((resolve, reject) => {
      let id = 0;
      const onAbort = () => {
        reject(signal.reason);
        this.#abandon(id);
      };
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      id = this.#ask(members, (reply) => {
        signal?.removeEventListener('abort', onAbort);
        if (reply.ok) resolve(this.#granted(members, reply));
        else reject(errorOf(reply));
      }, wait === Infinity ? null : clockMs() + wait, true);
    });
  }

  _call(members) {
    return new Promise((resolve, reject) => {
      this.#ask(members, (reply) => (reply.ok ? resolve(reply) : reject(errorOf(reply))),
        clockMs(), true);
    });
  }

  _release(lease) {
    return new Promise((resolve, reject) => {
      const settle = (reply) => (reply.ok ? resolve(reply.freed) : reject(lease.lost ?? errorOf(reply)));
      if (lease.released || (lease.lost && this.#link !== 'up')) {
        settle(outcome(lease, { ok: true, freed: false }));
        return;
      }
      lease._inside.give();
      if (!lease.lost && this.#link !== 'up') {
        settle({ ok: true, freed: false }); // to be adopted, and given back then
        this.#arm();
        return;
      }
      this.#sendRelease(lease, settle, true);
    });
  }

  #sendRelease(lease, settle, timed) {
    this.#ask({ op: 'release', lease: lease.token }, (reply) => {
      if (!lease.lost && reply.error === 'errSidecarUnavailable') {
        settle({ ok: true, freed: false }); // perhaps it was not read: adopted, it is sent again
        return;
      }
      this.#leases.delete(lease.token);
      settle(outcome(lease, reply));
    }, clockMs(), timed);
  }

  // -- Requests. `until` is how long one may wait: a moment (now: not at all), or null: for ever --

  #ask(members, onReply, until = 0, timed = false) {
    const id = ++this.#lastId;
    this.#requests.set(id, { members, onReply, until, timed, sent: false, expires: null });
    if (this.#closed) this.#finish(id, refusal('errSidecarUnavailable', 'the client is closed'));
    else if (this.#link === 'up') this.#send(id);
    else if (this.#link === 'down') this.#retryAt = 0;
    this.#connectIfWanted();
    this.#arm();
    return id;
  }

  #send(id) {
    const request = this.#requests.get(id);
    const members = { ...request.members, id };
    const now = clockMs();
    if (members.op === 'acquire') {
      members.wait_ms = request.until === null ? -1 : Math.max(0, Math.ceil(request.until - now));
    }
    if (members.op === 'acquire' || members.op === 'adopt') {
      if (this.#hello.caps?.includes('notify')) members.notify = ['renewed'];
    }
    const line = JSON.stringify(members);
    if (Buffer.byteLength(line) > (this.#hello.max_line ?? Infinity)) {
      this.#finish(id, refusal('errLineTooLong', 'the request is too long'));
      return;
    }
    request.sent = true;
    if (request.timed && request.until !== null) {
      request.expires = Math.max(request.until, now) + this.#timeout;
    }
    this.#socket.write(line + '\n');
  }

  #finish(id, reply) {
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    request.onReply(reply);
  }

  // Nobody takes its grant any more, if it comes all the same.
  #abandon(id) {
    const request = this.#requests.get(id);
    if (!request) return;
    request.onReply = (reply) => this.#giveBack(reply);
    request.timed = false;
    request.until = 0;
    request.expires = null;
    if (request.sent) this.#ask({ op: 'cancel', target: id }, () => {});
    else this.#finish(id, refusal('errCancelled', 'the wait was cancelled'));
    this.#arm();
  }

  #timeOut(id, request) {
    const late = this.#noAnswer('no answer in time');
    if (!request.sent) {
      this.#finish(id, this.#why ?? late);
    } else if (request.members.op !== 'acquire' && request.members.op !== 'adopt') {
      this.#finish(id, late);
    } else {
      request.onReply(late);
      this.#abandon(id);
    }
  }

  #noAnswer(why) {
    return refusal('errSidecarUnavailable', `${this.#path}: ${why}`);
  }

  // -- The connection --

  #connectIfWanted() {
    const wanted = this.#leases.size > 0 || this.#requests.size > 0;
    if (this.#link !== 'down' || this.#closed || !wanted || clockMs() < this.#retryAt) return;
    const socket = net.connect(this.#path);
    let why = 'the sidecar closed the connection';
    this.#socket = socket;
    this.#link = 'hello';
    this.#askedAt = clockMs();
    this.#inbox = '';
    this.#lastWords = null;
    socket.setEncoding('utf8');
    socket.on('data', (text) => {
      if (socket !== this.#socket) return;
      try {
        this.#received(text);
      } catch (error) {
        socket.destroy(error); // it is no lock-keeper
      }
    });
    socket.on('error', (error) => {
      why = error.message;
    });
    socket.on('close', () => {
      if (socket === this.#socket) this.#refused(why);
    });
    socket.write('{"op":"hello","id":0}\n');
  }

  // The connection could not be made, or is at its end.
  #refused(why) {
    const wasUp = this.#link === 'up';
    this.#why = (wasUp ? null : this.#lastWords) ?? this.#noAnswer(why);
    this.#dropLink();
    this.#retry = Math.min(Math.max(RETRY_MS, 2 * this.#retry), RETRY_MAX_MS);
    this.#retryAt = wasUp ? 0 : clockMs() + this.#retry;
    for (const { _inside: inside } of this.#leases.values()) {
      inside.confirmed = false;
      inside.adoptAt = null;
    }
    for (const [id, request] of [...this.#requests]) {
      request.sent = false;
      request.expires = null;
      if (request.until !== null && clockMs() >= request.until) this.#finish(id, this.#why);
    }
    this.#connectIfWanted();
    this.#arm();
  }

  #dropLink() {
    this.#link = 'down';
    this.#socket?.destroy();
    this.#socket = null;
  }

  #received(text) {
    this.#inbox += text;
    const lines = this.#inbox.split('\n');
    this.#inbox = lines.pop();
    if (this.#inbox.length > MAX_LINE) throw new Error('a line is too long');
    for (const line of lines) {
      if (this.#link === 'down') return;
      const message = JSON.parse(line);
      if (message.event !== undefined) this.#onEvent(message);
      else if (message.id === 0) this.#onHello(message);
      else if (message.id === undefined) this.#lastWords = message; // of a connection that is refused
      else if (this.#requests.get(message.id)?.sent) this.#finish(message.id, message);
    }
    this.#arm();
  }

  #onHello(reply) {
    if (!reply.ok || reply.protocol !== PROTOCOL) {
      throw new Error(`it does not speak protocol ${PROTOCOL}`);
    }
    this.#hello = reply;
    // Where their clock reads what ours cannot have read meanwhile, ours began elsewhere; then
    // nothing is taken for later than it is.
    const earliest = this.#askedAt - 2 * CLOCK_STEP_MS;
    const same = reply.now_ms >= earliest && reply.now_ms <= clockMs();
    this.#offset = same ? 0 : earliest - reply.now_ms;
    this.#link = 'up';
    this.#retry = 0;
    for (const lease of [...this.#leases.values()]) this.#adopt(lease);
    for (const [id, request] of [...this.#requests]) if (!request.sent) this.#send(id);
  }

  // -- Leases --

  #granted(members, grant) {
    const lease = new Lease(this, members, grant);
    this.#confirm(lease, grant);
    this.#leases.set(lease.token, lease);
    return lease;
  }

  #confirm({ _inside: inside }, grant) {
    inside.until = grant.valid_until_ms + this.#offset;
    inside.margin = (grant.ttl_ms * this.#hello.revoke_margin_ms) / this.#hello.lock_ttl_ms;
    inside.confirmed = true;
    inside.adoptAt = null;
  }

  #adopt(lease) {
    lease._inside.adoptAt = null;
    const members = { op: 'adopt', key: lease.key, lease: lease.token, ...lease._inside.binding };
    this.#ask(members, (reply) => this.#adopted(lease, reply));
  }

  #adopted(lease, reply) {
    if (this.#leases.get(lease.token) !== lease) {
      this.#giveBack(reply);
    } else if (reply.ok) {
      this.#confirm(lease, reply);
      if (lease.released) this.#sendRelease(lease, () => {}, false);
    } else if (reply.error === 'errLostActorLock') {
      this.#lose(lease, 'lost', reply);
    } else if (['errNotPermitted', 'errBadRequest', 'errUnknownOp'].includes(reply.error)) {
      this.#lose(lease, 'disconnected', reply);
    } else if (reply.error !== 'errSidecarUnavailable') {
      lease._inside.adoptAt = clockMs() + ADOPT_RETRY_MS;
    }
  }

  #giveBack(reply) {
    if (reply.ok) this.#ask({ op: 'release', lease: reply.lease }, () => {});
  }

  #onEvent(event) {
    const lease = this.#leases.get(event.lease);
    if (!lease) return;
    if (event.event === 'renewed') lease._inside.until = event.valid_until_ms + this.#offset;
    else if (event.event === 'revoked' && lease.released) lease._inside.crossed = event;
    else if (event.event === 'revoked') this.#lose(lease, event.reason, event);
  }

  #lose(lease, reason, event) {
    this.#leases.delete(lease.token);
    if (lease.released || lease.lost) return;
    const left = reason === 'lost' ? 0 : Math.floor(lease.remaining());
    lease._inside.lose(new LostActorLockError({
      safe_ms: left, ...event, error: 'errLostActorLock', reason }));
  }

  // Nobody has confirmed it in time.
  _expired(lease) {
    if (lease._inside.confirmed) {
      this.#lose(lease, 'silent', { message: 'the sidecar confirmed nothing in time' });
    } else {
      this.#lose(lease, 'disconnected',
        { message: 'the sidecar went away and none took over in time' });
    }
  }

  // -- Time --

  // A sidecar that is there revokes at the margin itself, so that is waited for. Without one, the
  // holder is told when it would have been.
  static #giveUpAt({ released, _inside: inside }) {
    if (released) return inside.until;
    return inside.until - (inside.confirmed ? inside.margin / 2 : inside.margin);
  }

  #dueAt(request) {
    if (request.sent) return request.expires;
    return this.#link === 'down' ? request.until : null;
  }

  #arm() {
    const times = [];
    for (const lease of this.#leases.values()) {
      times.push(LockKeeper.#giveUpAt(lease));
      if (this.#link === 'up' && lease._inside.adoptAt) times.push(lease._inside.adoptAt);
    }
    for (const request of this.#requests.values()) {
      const at = this.#dueAt(request);
      if (at !== null) times.push(at);
    }
    const isNeeded = !this.#closed && (this.#leases.size > 0 || this.#requests.size > 0);
    if (this.#link === 'hello') times.push(this.#askedAt + this.#timeout);
    else if (this.#link === 'down' && isNeeded) times.push(this.#retryAt);
    clearTimeout(this.#timer);
    this.#timer = null;
    // An idle connection does not keep the process alive.
    if (isNeeded) this.#socket?.ref();
    else this.#socket?.unref();
    if (!isNeeded || times.length === 0) return;
    const wait = Math.min(...times) - clockMs();
    this.#timer = setTimeout(() => this.#tick(), Math.min(Math.max(1, wait), MAX_TIMER_MS));
  }

  #tick() {
    const now = clockMs();
    for (const lease of [...this.#leases.values()]) {
      if (now >= LockKeeper.#giveUpAt(lease)) this._expired(lease);
      else if (this.#link === 'up' && lease._inside.adoptAt && now >= lease._inside.adoptAt) {
        this.#adopt(lease);
      }
    }
    this.#connectIfWanted();
    for (const [id, request] of [...this.#requests]) {
      const at = this.#dueAt(request);
      if (at !== null && now >= at) this.#timeOut(id, request);
    }
    if (this.#link === 'hello' && now >= this.#askedAt + this.#timeout) {
      this.#refused('no answer in time');
    }
    this.#arm();
  }
}

// What a release comes to.
function outcome(lease, reply) {
  if (lease.lost) return { ok: false };
  if (reply.ok) return { ok: true, freed: reply.freed ?? true };
  if (reply.error === 'errLostActorLock') return { ...lease._inside.crossed, ...reply };
  return { ok: true, freed: false }; // over all the same: deleted later, or it runs out
}

if (Symbol.dispose) {
  Object.defineProperty(LockKeeper.prototype, Symbol.dispose, { value: LockKeeper.prototype.close });
}

module.exports = {
  LockKeeper, Lease, LockKeeperError, LockHeldError, LostActorLockError, SidecarUnavailableError,
};
