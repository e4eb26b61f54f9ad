// SPDX-License-Identifier: Apache-2.0
//
// Client for the lock-keeper sidecar. All times are milliseconds.

export interface Holder {
  host?: string;
  pid?: number;
  uid?: number;
  label?: string;
  fence?: number;
  /** The key's value is none of lock-keeper's; then `bytes` or `type` says what it is. */
  foreign?: true;
  bytes?: number;
  type?: string;
}

/** Whatever lock-keeper refuses. */
export class LockKeeperError extends Error {
  /** The protocol's name: `errLockHeld`, `errRedisUnavailable`, ... */
  readonly code: string;
  /** The whole reply. */
  readonly reply: Record<string, unknown>;
}

/** `errLockHeld`: the key is held. */
export class LockHeldError extends LockKeeperError {
  readonly holder: Holder;
  /** When the key runs out unless it is renewed; null for a key without a TTL. */
  readonly retryAfter: number | null;
}

/** `errLostActorLock`: the lease is over, and not by its release. Stop acting on the key. */
export class LostActorLockError extends LockKeeperError {
  /**
   * The protocol's (`deadline`, `unreachable`, `lost`, `shutdown`, `released`, `moved`, `broken`) or
   * this client's own: `disconnected` (the sidecar went away and none took over in time), `silent`
   * (it confirmed nothing in time), `closed` (the client was closed).
   */
  readonly reason: string;
  /** How long, from when it was told, nobody else could have the key unless Redis itself loses it. */
  readonly safe: number;
}

/** `errSidecarUnavailable`, this client's own: no sidecar at the socket, or no answer from it. */
export class SidecarUnavailableError extends LockKeeperError {}

export interface AdoptOptions {
  /** What ends the lease: the connection (the default), a process, or only its release or deadline. */
  bind?: 'connection' | 'pid' | 'none';
  /** The process of `bind` `pid`; by default this one. */
  pid?: number;
  /** What becomes of the key at the end of the binding. */
  onDisconnect?: 'release' | 'expire';
  /** Aborts the wait: the promise is rejected with its reason, and nothing is held. */
  signal?: AbortSignal;
}

export interface AcquireOptions extends AdoptOptions {
  /** 0, the default, tries once; Infinity waits for ever. A wait outlasts a sidecar's restart. */
  wait?: number;
  ttl?: number;
  /** The workflow deadline, counted from the grant. */
  deadline?: number;
  /** Shown to people. */
  label?: string;
}

export class Lease {
  private constructor();
  readonly key: string;
  /** The fencing token: put it into every write that the lock protects. */
  readonly fence: number;
  readonly ttl: number;
  /** The workflow deadline in effect. */
  readonly deadline: number;
  readonly waited: number;
  /** The lease's digits. Whoever has them can release or adopt it: keep them secret. */
  readonly token: string;
  /** Aborts with a LostActorLockError when the lease is lost; never by a release. */
  readonly signal: AbortSignal;
  readonly lost: LostActorLockError | null;
  readonly released: boolean;
  /** Whether one may act on the key now: reads a clock (some microseconds) and asks nobody. */
  valid(): boolean;
  /** For how long `valid` stays true if no heartbeat succeeds any more. */
  remaining(): number;
  /** Throws LostActorLockError unless `valid`. */
  check(): void;
  /**
   * Gives the key back. True: it is free now; false: it will be, at the latest when it runs out.
   * Rejected with LostActorLockError if the lease was lost: then this tells the sidecar that the work
   * has stopped, which may free the key early. Again: no effect.
   */
  release(): Promise<boolean>;
  /** Moves the workflow deadline, counted from the grant; resolves to what is in effect. */
  extend(deadline: number): Promise<number>;
  /** Where the runtime has it: as `release`, but a loss that `check` has thrown is not thrown again. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A client of one sidecar, for any number of leases. It connects when it is first needed, adopts its
 * leases from the next sidecar when one is restarted, and keeps the process alive only while it has
 * leases or requests.
 */
export class LockKeeper {
  /** The socket: as given, else LOCK_KEEPER_SOCKET, else the usual place. */
  constructor(options?: string | {
    socket?: string;
    /** How long the sidecar may take to answer, beside the time that an acquire waits (10 s). */
    timeout?: number;
  });
  acquire(key: string, options?: AcquireOptions): Promise<Lease>;
  /**
   * Holds the lease while `work` runs. Rejected with what `work` throws, else with
   * LostActorLockError if the lease was lost meanwhile.
   */
  withLease<T>(key: string, options: AcquireOptions, work: (lease: Lease) => T | Promise<T>): Promise<T>;
  /** Takes over a lease that another process, or another client, holds. */
  adopt(key: string, token: string, options?: AdoptOptions): Promise<Lease>;
  /** What the sidecar is and how it is configured, in the protocol's words. */
  hello(): Promise<Record<string, unknown>>;
  ping(): Promise<Record<string, unknown>>;
  /** Who holds the key, in whichever sidecar. */
  inspect(key: string): Promise<Record<string, unknown>>;
  /** All leases of this sidecar. */
  list(): Promise<Array<Record<string, unknown>>>;
  /** Takes the key away from whoever holds it; for the sidecar's own user and root. */
  breakLock(key: string, grace?: number): Promise<boolean>;
  /** Ends the connection, and with it the leases that are bound to it. */
  close(): void;
  /** Where the runtime has it: as `close`. */
  [Symbol.dispose](): void;
}
