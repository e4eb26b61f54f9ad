# SPDX-License-Identifier: Apache-2.0
"""Hold Redis locks through the lock-keeper sidecar, and hear of it before one is lost.

    import lock_keeper

    with lock_keeper.LockKeeper() as keeper:
        with keeper.acquire("actor:42", wait=10, deadline=60) as lease:
            for step in steps:
                lease.check()                       # raises LostActorLock
                store.write(step, fence=lease.fence)

`LockKeeper` is for threads: one connection and one background thread serve any number of leases.
`AsyncLockKeeper` is the same for asyncio; there a loss cancels the body of `async with` and comes
out of it as LostActorLock.

Times are seconds. A lease is valid by CLOCK_BOOTTIME alone (`Lease.valid`), so also a sidecar that
is frozen, killed or starved cannot make a holder act too long. When the sidecar goes away, the
client connects again and adopts its leases from the next one; a lease that nobody has confirmed in
time is lost, and its holder is told while nobody else can have the key yet.

The model: `_Core` is the protocol without any input or output. It is fed lines and instants, and
leaves behind bytes to send (`out`) and what is to be told (`calls`). `LockKeeper` drives it from a
thread, under one lock, and tells outside of it; `AsyncLockKeeper` drives it from the event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import json
import mmap
import os
import select
import socket as sockets
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Awaitable, Callable, Dict, Generator, Generic, List, Optional, Tuple, Type
from typing import TypeVar, Union

__version__ = "0.1.0"
__all__ = [
    "AsyncLease", "AsyncLockKeeper", "BadRequest", "Cancelled", "InternalError", "Lease",
    "LimitExceeded", "LineTooLong", "LockHeld", "LockKeeper", "LockKeeperError", "LostActorLock",
    "NotPermitted", "Pending", "RedisRefused", "RedisUnavailable", "ShuttingDown",
    "SidecarUnavailable", "UnknownLease", "UnknownOp",
]

DEFAULT_SOCKET = "/run/lock-keeper/lock-keeper.sock"

_PROTOCOL = 1
_MAX_REPLY = 1 << 20  # of a line; more is no lock-keeper
_MS = 1_000_000
_RETRY_NS = 20 * _MS  # between attempts to connect or to adopt, doubling up to
_RETRY_MAX_NS = 250 * _MS

Reply = Dict[str, Any]


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


# ---- Errors ----


class LockKeeperError(Exception):
    """Anything that lock-keeper refuses. `name` is the protocol's (errLockHeld, ...), `reply` the
    whole reply. An error that this client does not know is of this class itself."""

    name = "errInternal"

    def __init__(self, message: str = "", reply: Optional[Reply] = None) -> None:
        super().__init__(message)
        self.reply: Reply = reply or {}
        self.name = self.reply.get("error", type(self).name)

    def __str__(self) -> str:
        return "%s: %s" % (self.name, super().__str__())


class BadRequest(LockKeeperError):
    """The request is not valid; the message names the member and the remedy."""

    name = "errBadRequest"


class UnknownOp(LockKeeperError):
    """This release of the sidecar cannot do that."""

    name = "errUnknownOp"


class LineTooLong(LockKeeperError):
    """A request of more than 4096 bytes."""

    name = "errLineTooLong"


class LockHeld(LockKeeperError):
    """The key is held. `holder` says by whom; `retry_after` (s) is when it runs out unless it is
    renewed, None for a key without a TTL."""

    name = "errLockHeld"

    @property
    def holder(self) -> Dict[str, Any]:
        return self.reply.get("holder") or {}

    @property
    def retry_after(self) -> Optional[float]:
        after = self.reply.get("retry_after_ms")
        return None if after is None else after / 1000


class Cancelled(LockKeeperError):
    """The wait was cancelled; nothing is held."""

    name = "errCancelled"


class UnknownLease(LockKeeperError):
    """No such lease in this sidecar: it ended long ago."""

    name = "errUnknownLease"


class LostActorLock(LockKeeperError):
    """The lease is over, and not by its release: stop acting on the key.

    `reason` is the protocol's (deadline, unreachable, lost, shutdown, released, moved, broken) or
    this client's own: `disconnected` (the sidecar went away and no other took over in time),
    `silent` (it confirmed nothing in time), `closed` (the client was closed), `forked` (this is a
    child of the process that holds the lease). `safe` is how long (s), from the moment it was told,
    nobody else could have the key unless Redis itself loses it."""

    name = "errLostActorLock"

    def __init__(self, message: str = "", reply: Optional[Reply] = None) -> None:
        super().__init__(message, reply)
        self.reason: str = self.reply.get("reason", "lost")
        self.safe: float = self.reply.get("safe_ms", 0) / 1000


class NotPermitted(LockKeeperError):
    """This user may not do that."""

    name = "errNotPermitted"


class LimitExceeded(LockKeeperError):
    """A cap was reached; the message names it."""

    name = "errLimitExceeded"


class RedisUnavailable(LockKeeperError):
    """Redis cannot be reached, or answered that it cannot now. Nothing is held."""

    name = "errRedisUnavailable"


class RedisRefused(LockKeeperError):
    """Redis answered an error that does not pass by itself; its words are in the message."""

    name = "errRedisRefused"


class ShuttingDown(LockKeeperError):
    """The sidecar is ending and grants nothing new."""

    name = "errShuttingDown"


class InternalError(LockKeeperError):
    """The sidecar is out of memory, or has a bug."""

    name = "errInternal"


class SidecarUnavailable(LockKeeperError):
    """This client's own: no sidecar listens at the socket, or it did not answer."""

    name = "errSidecarUnavailable"


_ERRORS: Dict[str, Type[LockKeeperError]] = {c.name: c for c in LockKeeperError.__subclasses__()}


def _error(reply: Reply) -> LockKeeperError:
    kind = _ERRORS.get(reply.get("error", ""), LockKeeperError)
    return kind(reply.get("message", ""), reply)


def _refusal(error: Type[LockKeeperError], message: str, **members: Any) -> Reply:
    return {"ok": False, "error": error.name, "message": message, **members}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


# ---- The protocol, without input and output ----


class _BaseLease:
    """What a lease knows, under threads and asyncio alike."""

    def __init__(self, owner: Any, members: Reply, grant: Reply) -> None:
        self.key: str = members["key"]
        self.fence: int = grant["fence"]
        """The fencing token: put it into every write that the lock protects."""
        self.ttl: float = grant["ttl_ms"] / 1000
        self.deadline: float = grant["deadline_ms"] / 1000
        """The workflow deadline in effect, counted from the grant."""
        self.waited: float = grant.get("waited_ms", 0) / 1000
        self.lost: Optional[LostActorLock] = None
        """Set once, when the lease is lost."""
        self.released = False
        self._owner = owner
        self._token: str = grant["lease"]
        self._binding = {name: members[name] for name in ("bind", "pid", "on_disconnect")
                         if name in members}
        self._confirmed = False  # on the connection of now
        self._adopt_at: Optional[int] = None  # while it is to be adopted and was not asked for
        self._until_ns = 0  # by CLOCK_BOOTTIME here
        self._margin_ns = 0
        self._page: Optional[Tuple[memoryview, int, int]] = None  # slots, number, offset
        self._crossed: Optional[Reply] = None  # a revoked that crossed our release
        self._on_lost: Optional[Callable[[Any], Any]] = None

    @property
    def token(self) -> str:
        """The lease's digits. Whoever has them can release or adopt it: keep them secret."""
        return self._token

    def _valid_until(self) -> int:
        page = self._page
        if page is None:
            return self._until_ns
        slots, number, offset_ns = page
        at = slots[number]
        return at + offset_ns if at else 0

    def valid(self) -> bool:
        """Whether one may act on the key now. Asks nobody, so it is right with the sidecar frozen
        or dead, too."""
        return self.lost is None and not self.released and _now() < self._valid_until()

    def remaining(self) -> float:
        """For how long (s) `valid` stays true if no heartbeat succeeds any more."""
        over = self.lost is not None or self.released
        return 0.0 if over else max(0, self._valid_until() - _now()) / 1e9

    def check(self) -> None:
        """Raises LostActorLock unless `valid`."""
        if self.valid():
            return
        self._owner._look(self)
        if self.lost is not None:
            raise self.lost.with_traceback(None)
        if not self.released:
            return  # a heartbeat has come meanwhile
        raise LostActorLock("the lease was released", {"reason": "released"})

    def __repr__(self) -> str:
        state = "lost" if self.lost else "released" if self.released else "held"
        return "<%s %r %s>" % (type(self).__name__, self.key, state)


class _Request:
    def __init__(self, members: Reply, on_reply: Callable[[Reply], None], until: Optional[int],
                 is_timed: bool) -> None:
        self.members = members
        self.on_reply = on_reply
        self.until = until  # how long it may wait (now: not at all; None: for ever)
        self.is_timed = is_timed  # somebody is to be told if no answer comes
        self.sent = False
        self.expires: Optional[int] = None  # when an answer is overdue


class _Core:
    """Leases and requests of one client. A lease is in `leases` from its grant until it is lost, or
    its release was answered; while it is `released` there, its key is still to be given back."""

    def __init__(self, path: str, timeout: float, make_lease: Callable[[Reply, Reply], Any]) -> None:
        self.path = path
        self.timeout_ns = round(timeout * 1e9)
        self.make_lease = make_lease
        self.out = bytearray()
        self.calls: List[Callable[[], Any]] = []
        self.fds: List[int] = []  # received, not used yet
        self.leases: Dict[str, _BaseLease] = {}
        self.requests: Dict[int, _Request] = {}
        self.link = "down"  # then hello, page (each asked for), up
        self.closed = False
        self.hello: Reply = {}
        self._last_id = 0
        self._inbox = bytearray()
        self._searched = 0
        self._asked_at = 0
        self._offset_ns = 0  # from the sidecar's clock to ours
        self._slots: Optional[memoryview] = None
        self._last_words: Optional[Reply] = None
        self._why: Optional[Reply] = None  # there is no connection
        self._retry_at = 0
        self._retry_ns = 0

    # -- What the program asks for --

    def request(self, members: Reply, done: Callable[[Reply], None], now: int,
                wait: Optional[float] = 0) -> int:
        until = None if wait is None else now + round(wait * 1e9)
        return self._ask(members, lambda reply: self._tell(done, reply), now, until, True)

    def acquire(self, members: Reply, done: Callable[[Reply], None], now: int,
                wait: Optional[float] = 0) -> int:
        """For an adopt, too. The reply to `done` has the lease under the empty name."""
        until = None if wait is None else now + round(wait * 1e9)
        return self._ask(members, lambda reply: self._on_granted(members, done, reply), now, until,
                         True)

    def cancel(self, number: int, now: int, abandon: bool = False) -> None:
        """Abandoned: nobody takes the grant any more, if it comes all the same."""
        request = self.requests.get(number)
        if request is None:
            return
        if abandon:
            request.on_reply = lambda reply: self._give_back(reply, _now())
            request.is_timed = False
        if not request.sent:
            self._finish(number, _refusal(Cancelled, "the wait was cancelled"))
            return
        request.until = now
        request.expires = now + self.timeout_ns if request.is_timed else None
        self._ask({"op": "cancel", "target": number}, lambda reply: None, now)

    def release(self, lease: _BaseLease, done: Callable[[Reply], None], now: int) -> None:
        """Ends in {"ok": true, "freed": ...}, or in the loss."""
        if lease.released or (lease.lost and self.link != "up"):
            self._tell(done, self._outcome(lease, {"ok": True, "freed": False}))
            return
        lease.released = True
        if lease.lost is None and self.link != "up":
            # To be adopted, and given back then.
            self._tell(done, {"ok": True, "freed": False})
            return
        self._ask({"op": "release", "lease": lease._token},
                  lambda reply: self._on_released(lease, done, reply), now, now, True)

    def close(self) -> None:
        self.closed = True
        self._drop_link()
        for lease in list(self.leases.values()):
            self._set_lost(lease, "closed", "the client was closed")
        self.leases.clear()
        for number in list(self.requests):
            self._finish(number, _refusal(SidecarUnavailable, "the client was closed"))

    def forked(self) -> None:
        """In a child process. The parent goes on: nothing is sent, and nobody is told."""
        self.closed = True
        self._drop_link()
        for lease in self.leases.values():
            self._set_lost(lease, "forked", "the lease is held by the parent of this process")
        self.leases.clear()
        self.requests.clear()
        self.calls.clear()

    def _tell(self, done: Callable[[Reply], None], reply: Reply) -> None:
        self.calls.append(lambda: done(reply))

    # -- Requests --

    def _ask(self, members: Reply, on_reply: Callable[[Reply], None], now: int,
             until: Optional[int] = 0, is_timed: bool = False) -> int:
        self._last_id += 1
        self.requests[self._last_id] = _Request(members, on_reply, until, is_timed)
        if self.closed:
            self._finish(self._last_id, _refusal(SidecarUnavailable, "the client is closed"))
        elif self.link == "up":
            self._send(self._last_id, now)
        elif self.link == "down":
            self._retry_at = now
        return self._last_id

    def _send(self, number: int, now: int) -> None:
        request = self.requests[number]
        members = {**request.members, "id": number}
        if members["op"] == "acquire":
            until = request.until
            members["wait_ms"] = -1 if until is None else max(0, -(-(until - now) // _MS))
        if members["op"] in ("acquire", "adopt") and "notify" in self.hello.get("caps", ()):
            members["notify"] = ["renewed"]
        line = self._line(members)
        if len(line) > self.hello.get("max_line", len(line)) + 1:
            self._finish(number, _refusal(LineTooLong, "the request is too long"))
            return
        request.sent = True
        if request.until is not None and request.is_timed:
            request.expires = max(request.until, now) + self.timeout_ns
        self.out += line

    @staticmethod
    def _line(members: Reply) -> bytes:
        return json.dumps(members, separators=(",", ":")).encode() + b"\n"

    def _finish(self, number: int, reply: Reply) -> None:
        self.requests.pop(number).on_reply(reply)

    def _time_out(self, number: int, request: _Request, now: int) -> None:
        if not request.sent:
            self._finish(number, self._why or self._no_answer("no answer in time"))
        elif request.members["op"] not in ("acquire", "adopt"):
            self._finish(number, self._no_answer("no answer in time"))
        else:
            request.on_reply(self._no_answer("no answer in time"))
            self.cancel(number, now, abandon=True)

    def _no_answer(self, why: str) -> Reply:
        return _refusal(SidecarUnavailable, "%s: %s" % (self.path, why))

    # -- The connection --

    def wants_link(self, now: int) -> bool:
        wanted = bool(self.leases) or bool(self.requests)
        return self.link == "down" and not self.closed and wanted and now >= self._retry_at

    def opened(self, now: int) -> None:
        self.link = "hello"
        self._asked_at = now
        self._last_words = None
        self.out += self._line({"op": "hello", "id": 0})

    def refused(self, why: str, now: int) -> None:
        """The connection could not be made, or is at its end."""
        was_up = self.link == "up"
        self._drop_link()
        self._retry_ns = min(max(_RETRY_NS, 2 * self._retry_ns), _RETRY_MAX_NS)
        self._retry_at = now if was_up else now + self._retry_ns
        for lease in self.leases.values():
            lease._confirmed = False
            lease._adopt_at = None
        self._why = None if was_up else self._last_words
        reply = self._why = self._why or self._no_answer(why)
        for number, request in list(self.requests.items()):
            request.sent = False
            request.expires = None
            if request.until is not None and now >= request.until:
                self._finish(number, reply)

    def _drop_link(self) -> None:
        self.link = "down"
        self.out.clear()
        self._inbox.clear()
        self._searched = 0
        self._slots = None  # leases keep the page that they have
        while self.fds:
            os.close(self.fds.pop())

    def received(self, data: bytes, now: int) -> None:
        """Raises ValueError (or KeyError, TypeError) where that is no lock-keeper."""
        self._inbox += data
        while self.link != "down":
            end = self._inbox.find(b"\n", self._searched)
            if end < 0:
                break
            message = json.loads(self._inbox[:end])
            del self._inbox[:end + 1]
            self._searched = 0
            if not isinstance(message, dict):
                raise ValueError("a line is no JSON object")
            if "ok" in message:
                self._on_reply(message, now)
            elif "event" in message:
                self._on_event(message)
        self._searched = len(self._inbox)
        if self._searched > _MAX_REPLY:
            raise ValueError("a line is too long")

    def _on_reply(self, reply: Reply, now: int) -> None:
        number = reply.get("id")
        if number is None:
            self._last_words = reply  # of a connection that is refused
        elif number == 0:
            self._on_hello(reply, now)
        elif number in self.requests:
            self._finish(number, reply)

    def _on_hello(self, reply: Reply, now: int) -> None:
        if self.link == "page":
            self._slots = self._map_page()
            self._ready(now)
            return
        if not reply["ok"] or reply.get("protocol") != _PROTOCOL:
            raise ValueError("it does not speak protocol %d" % _PROTOCOL)
        self.hello = reply
        # Where their clock reads what ours cannot have read meanwhile, we are in another time
        # namespace; then nothing is taken for later than it is. (Fractions of ms are cut off.)
        theirs = reply["now_ms"] * _MS
        same = self._asked_at - _MS < theirs <= now
        self._offset_ns = 0 if same else self._asked_at - _MS - theirs
        if "page" in reply.get("caps", ()):
            self.link = "page"
            self.out += self._line({"op": "hello", "id": 0, "page": True})
        else:
            self._ready(now)

    def _map_page(self) -> Optional[memoryview]:
        if not self.fds:
            return None
        fd = self.fds.pop()
        try:
            size = os.fstat(fd).st_size
            page = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            return memoryview(page)[:size // 8 * 8].cast("Q")
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)

    def _ready(self, now: int) -> None:
        self.link = "up"
        self._retry_ns = 0
        for lease in list(self.leases.values()):
            self._adopt(lease, now)
        for number, request in list(self.requests.items()):
            if not request.sent:
                self._send(number, now)

    # -- Leases --

    def _on_granted(self, members: Reply, done: Callable[[Reply], None], reply: Reply) -> None:
        if reply["ok"]:
            lease = self.make_lease(members, reply)
            self._confirm(lease, reply)
            self.leases[lease._token] = lease
            reply = {**reply, "": lease}
        self._tell(done, reply)

    def _confirm(self, lease: _BaseLease, grant: Reply) -> None:
        lease._until_ns = grant["valid_until_ms"] * _MS + self._offset_ns
        lease._margin_ns = round(grant["ttl_ms"] * _MS * self.hello["revoke_margin_ms"] /
                                 self.hello["lock_ttl_ms"])
        slot = grant.get("slot")
        has_slot = self._slots is not None and slot is not None and slot < len(self._slots)
        lease._page = (self._slots, slot, self._offset_ns) if has_slot else None  # type: ignore
        lease._confirmed = True
        lease._adopt_at = None

    def _adopt(self, lease: _BaseLease, now: int) -> None:
        lease._adopt_at = None
        self._ask({"op": "adopt", "key": lease.key, "lease": lease._token, **lease._binding},
                  lambda reply: self._on_adopted(lease, reply), now)

    def _on_adopted(self, lease: _BaseLease, reply: Reply) -> None:
        now = _now()
        error = reply.get("error")
        if self.leases.get(lease._token) is not lease:
            self._give_back(reply, now)
        elif reply["ok"]:
            self._confirm(lease, reply)
            if lease.released:
                self._ask({"op": "release", "lease": lease._token},
                          lambda reply: self._on_released(lease, lambda reply: None, reply), now)
        elif error in (LostActorLock.name, NotPermitted.name, BadRequest.name, UnknownOp.name):
            self._lose(lease, "lost" if error == LostActorLock.name else "disconnected", reply)
        elif error != SidecarUnavailable.name:
            lease._adopt_at = now + 5 * _RETRY_NS

    def _give_back(self, reply: Reply, now: int) -> None:
        if reply["ok"]:
            self._ask({"op": "release", "lease": reply["lease"]}, lambda reply: None, now)

    def _on_released(self, lease: _BaseLease, done: Callable[[Reply], None], reply: Reply) -> None:
        if lease.lost is None and reply.get("error") == SidecarUnavailable.name:
            # Perhaps it was not read: adopted, it is released again.
            self._tell(done, {"ok": True, "freed": False})
            return
        self.leases.pop(lease._token, None)
        self._tell(done, self._outcome(lease, reply))

    @staticmethod
    def _outcome(lease: _BaseLease, reply: Reply) -> Reply:
        if lease.lost is not None:
            return {**lease.lost.reply, "ok": False}
        if reply["ok"]:
            return {"ok": True, "freed": reply.get("freed", True)}
        if reply["error"] == LostActorLock.name:
            return {"reason": "lost", **(lease._crossed or {}), **reply}
        return {"ok": True, "freed": False}  # over all the same: deleted later, or it runs out

    def _on_event(self, event: Reply) -> None:
        lease = self.leases.get(event.get("lease", ""))
        if lease is None:
            return
        if event["event"] == "renewed":
            lease._until_ns = event["valid_until_ms"] * _MS + self._offset_ns
        elif event["event"] == "revoked" and lease.released:
            lease._crossed = event
        elif event["event"] == "revoked":
            self._lose(lease, event.get("reason", "lost"), event)

    def _lose(self, lease: _BaseLease, reason: str, event: Reply) -> None:
        self.leases.pop(lease._token, None)
        if lease.released:
            return
        if "safe_ms" not in event:
            left = max(0, lease._valid_until() - _now()) // _MS
            event = {**event, "safe_ms": 0 if reason == "lost" else left}
        self._set_lost(lease, reason, event.get("message", ""), event)
        if lease._on_lost is not None:
            self.calls.append(lambda: lease._on_lost and lease._on_lost(lease))

    @staticmethod
    def _set_lost(lease: _BaseLease, reason: str, message: str, event: Optional[Reply] = None) -> None:
        if lease.lost is None and not lease.released:
            lease.lost = LostActorLock(message, {
                **(event or {}), "error": LostActorLock.name, "reason": reason, "message": message,
            })

    def look(self, lease: _BaseLease) -> None:
        """Its holder has looked at the clock before `tick` did."""
        if not lease.valid() and not lease.released:
            self._expire(lease)

    def _expire(self, lease: _BaseLease) -> None:
        """Nobody has confirmed it in time."""
        if lease._confirmed:
            self._lose(lease, "silent", {"message": "the sidecar confirmed nothing in time"})
        else:
            self._lose(lease, "disconnected",
                       {"message": "the sidecar went away and none took over in time"})

    # -- Time --

    @staticmethod
    def _give_up_at(lease: _BaseLease) -> int:
        # A sidecar that is there revokes at the margin itself, so that is waited for. Without one,
        # the holder is told when it would have been.
        if lease.released:
            return lease._until_ns
        return lease._until_ns - (lease._margin_ns // 2 if lease._confirmed else lease._margin_ns)

    def deadline(self) -> Optional[int]:
        """When `tick` is due."""
        times = [self._give_up_at(lease) for lease in self.leases.values()]
        if self.link == "up":
            times += [lease._adopt_at for lease in self.leases.values() if lease._adopt_at]
        elif self.link != "down":
            times.append(self._asked_at + self.timeout_ns)
        elif self.leases or self.requests:
            times.append(self._retry_at)
        for request in self.requests.values():
            at = request.expires if request.sent else request.until
            if at is not None and (request.sent or self.link == "down"):
                times.append(at)
        return min(times) if times and not self.closed else None

    def tick(self, now: int) -> None:
        """Raises TimeoutError when the connection is of no use."""
        for lease in list(self.leases.values()):
            if now >= self._give_up_at(lease):
                self._expire(lease)
            elif self.link == "up" and lease._adopt_at and now >= lease._adopt_at:
                self._adopt(lease, now)
        for number, request in list(self.requests.items()):
            at = request.expires if request.sent else request.until
            if at is not None and now >= at and (request.sent or self.link == "down"):
                self._time_out(number, request, now)
        if self.link in ("hello", "page") and now >= self._asked_at + self.timeout_ns:
            raise TimeoutError("no answer in time")

    # -- The socket, the same for both --

    def connect(self) -> sockets.socket:
        sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def write(self, sock: sockets.socket) -> None:
        while self.out:
            try:
                sent = sock.send(self.out, sockets.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            del self.out[:sent]

    def read(self, sock: sockets.socket) -> None:
        """Raises OSError at the end, ValueError and the like for nonsense."""
        try:
            data, ancillary, _, _ = sock.recvmsg(65536, sockets.CMSG_SPACE(4),
                                                 sockets.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        for level, kind, content in ancillary:
            if level == sockets.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
                self.fds += [int.from_bytes(content[i:i + 4], sys.byteorder)
                             for i in range(0, len(content) // 4 * 4, 4)]
        if not data:
            raise ConnectionError("the sidecar closed the connection")
        self.received(data, _now())


# ---- For threads ----


class Lease(_BaseLease):
    """A lease that is held. As a context manager it is released at the end of the body, and raises
    LostActorLock there if it was lost and the body raised nothing itself."""

    _owner: "LockKeeper"

    def release(self) -> bool:
        """Gives the key back, and says whether it is free now: False where it is known only that
        it will run out. Raises LostActorLock if the lease was lost; then this tells the sidecar
        that the work has stopped, which may free the key early. Again: no effect."""
        return self._owner._release(self)

    def extend(self, deadline: float) -> float:
        """Moves the workflow deadline, counted (s) from the grant; returns what is in effect."""
        reply = self._owner._call({"op": "extend", "lease": self._token,
                                   "deadline_ms": _ms(deadline)})
        self.deadline = reply["deadline_ms"] / 1000
        return self.deadline

    def wait_lost(self, timeout: Optional[float] = None) -> Optional[LostActorLock]:
        """Waits until the lease is lost; the loss, or None after `timeout` (s)."""
        with self._owner._changed:
            self._owner._changed.wait_for(lambda: self.lost or self.released, timeout)
        return self.lost

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        try:
            self.release()
        except LostActorLock:
            if error is None:
                raise


class Pending:
    """An acquire that has begun."""

    def __init__(self, owner: "LockKeeper") -> None:
        self._owner = owner
        self._number = 0
        self._future: "concurrent.futures.Future[Lease]" = concurrent.futures.Future()

    def result(self, timeout: Optional[float] = None) -> Lease:
        """The lease, once it is granted; raises what `LockKeeper.acquire` would. After `timeout`
        (s), concurrent.futures.TimeoutError, and the wait goes on."""
        return self._future.result(timeout)

    def done(self) -> bool:
        return self._future.done()

    def add_done_callback(self, call: Callable[["Pending"], Any]) -> None:
        """Called from the background thread."""
        self._future.add_done_callback(lambda future: call(self))

    def cancel(self) -> None:
        """`result` raises Cancelled then, unless it was granted before."""
        self._owner._act(lambda core, now: core.cancel(self._number, now))


def _acquire_members(key: str, ttl: Optional[float], deadline: Optional[float],
                     label: Optional[str], bind: Optional[str], pid: Optional[int],
                     on_disconnect: Optional[str]) -> Reply:
    members: Reply = {"op": "acquire", "key": key}
    if ttl is not None:
        members["ttl_ms"] = _ms(ttl)
    if deadline is not None:
        members["deadline_ms"] = _ms(deadline)
    for name, value in (("label", label), ("bind", bind), ("pid", pid),
                        ("on_disconnect", on_disconnect)):
        if value is not None:
            members[name] = value
    return members


def _socket_path(path: Optional[str]) -> str:
    return path or os.environ.get("LOCK_KEEPER_SOCKET") or DEFAULT_SOCKET


class LockKeeper:
    """A client of one sidecar, for any number of leases and threads. Connects when it is first
    needed. `timeout` (s) is how long the sidecar may take to answer, beside the time that an
    acquire waits. Closing it ends its leases, but for those with another `bind`.

    After a fork, the leases are the parent's; the child uses a LockKeeper of its own."""

    def __init__(self, socket: Optional[str] = None, *, timeout: float = 10.0) -> None:
        self._core = _Core(_socket_path(socket), timeout, lambda *grant: Lease(self, *grant))
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._socket: Optional[sockets.socket] = None
        self._thread: Optional[threading.Thread] = None
        self._wake_read = self._wake_write = -1
        self._sleeps_until: Optional[int] = None
        _clients.add(self)

    # -- What one asks for --

    def acquire(self, key: str, *, wait: Optional[float] = 0, ttl: Optional[float] = None,
                deadline: Optional[float] = None, label: Optional[str] = None,
                bind: Optional[str] = None, pid: Optional[int] = None,
                on_disconnect: Optional[str] = None,
                on_lost: Optional[Callable[[Lease], Any]] = None) -> Lease:
        """The lease of `key`. `wait` (s): 0 tries once, None waits for ever; a wait outlasts the
        absence of the sidecar, too. The members of the protocol's `acquire` that are not given have
        the sidecar's defaults. `on_lost` is called with the lease once it is lost, from the
        background thread or by the `check` that notices first; what it raises goes to
        threading.excepthook."""
        pending = self.start_acquire(key, wait=wait, ttl=ttl, deadline=deadline, label=label,
                                     bind=bind, pid=pid, on_disconnect=on_disconnect,
                                     on_lost=on_lost)
        try:
            return pending.result()
        except LockKeeperError:
            raise
        except BaseException:  # KeyboardInterrupt: nothing is to be granted to nobody
            self._act(lambda core, now: core.cancel(pending._number, now, abandon=True))
            if pending.done() and pending._future.exception() is None:
                pending.result().release()
            raise

    def start_acquire(self, key: str, *, wait: Optional[float] = 0, ttl: Optional[float] = None,
                      deadline: Optional[float] = None, label: Optional[str] = None,
                      bind: Optional[str] = None, pid: Optional[int] = None,
                      on_disconnect: Optional[str] = None,
                      on_lost: Optional[Callable[[Lease], Any]] = None) -> Pending:
        """As `acquire`, without waiting for the answer."""
        members = _acquire_members(key, ttl, deadline, label, bind, pid, on_disconnect)
        return self._start(members, wait, on_lost)

    def adopt(self, key: str, token: str, *, bind: Optional[str] = None,
              pid: Optional[int] = None, on_disconnect: Optional[str] = None,
              on_lost: Optional[Callable[[Lease], Any]] = None) -> Lease:
        """Takes over a lease that another process, or another client, holds."""
        members = _acquire_members(key, None, None, None, bind, pid, on_disconnect)
        members.update(op="adopt", lease=token)
        return self._start(members, 0, on_lost).result()

    def hello(self) -> Reply:
        """What the sidecar is and how it is configured, in the protocol's words."""
        return self._call({"op": "hello"})

    def ping(self) -> Reply:
        return self._call({"op": "ping"})

    def inspect(self, key: str) -> Reply:
        """Who holds the key, in whichever sidecar."""
        return self._call({"op": "inspect", "key": key})

    def list(self) -> List[Reply]:
        """All leases of this sidecar."""
        rows: List[Reply] = []
        page = self._call({"op": "list", "limit": 500})
        while True:
            rows += page["leases"]
            if "next" not in page:
                return rows
            page = self._call({"op": "list", "limit": 500, "after": page["next"]})

    def break_lock(self, key: str, grace: float = 0) -> bool:
        """Takes the key away from whoever holds it; for the sidecar's own user and root."""
        return bool(self._call({"op": "break", "key": key, "grace_ms": _ms(grace)})["broken"])

    def close(self) -> None:
        self._act(lambda core, now: core.close())
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> "LockKeeper":
        return self

    def __exit__(self, *unused: Any) -> None:
        self.close()

    # -- Inside --

    def _start(self, members: Reply, wait: Optional[float],
               on_lost: Optional[Callable[[Lease], Any]]) -> Pending:
        pending = Pending(self)

        def answered(reply: Reply) -> None:
            if not reply["ok"]:
                pending._future.set_exception(_error(reply))
                return
            lease = reply[""]
            pending._future.set_result(lease)
            lease._on_lost = self._loss_teller(on_lost)
            if lease.lost is not None:
                lease._on_lost(lease)

        def begin(core: _Core, now: int) -> None:
            pending._number = core.acquire(members, answered, now, wait)

        self._act(begin)
        return pending

    def _loss_teller(self, on_lost: Optional[Callable[[Lease], Any]]) -> Callable[[Lease], None]:
        def tell(lease: Lease) -> None:
            lease._on_lost = None
            with self._changed:
                self._changed.notify_all()
            if on_lost is not None:
                on_lost(lease)
        return tell

    def _call(self, members: Reply) -> Reply:
        future: "concurrent.futures.Future[Reply]" = concurrent.futures.Future()
        self._act(lambda core, now: core.request(members, future.set_result, now))
        reply = future.result()
        if not reply["ok"]:
            raise _error(reply)
        return reply

    def _release(self, lease: Lease) -> bool:
        future: "concurrent.futures.Future[Reply]" = concurrent.futures.Future()
        self._act(lambda core, now: core.release(lease, future.set_result, now))
        reply = future.result()
        with self._changed:
            self._changed.notify_all()
        if lease.lost is not None:
            raise lease.lost.with_traceback(None)
        if not reply["ok"]:
            raise _error(reply)
        return bool(reply["freed"])

    def _look(self, lease: Lease) -> None:
        self._act(lambda core, now: core.look(lease))

    def _act(self, action: Callable[[_Core, int], Any]) -> None:
        """Does something with the core, and then what follows from it."""
        with self._lock:
            action(self._core, _now())
            self._follow_up()
            calls, self._core.calls = self._core.calls, []
        for call in calls:
            self._run_call(call)

    def _follow_up(self) -> None:
        core = self._core
        if core.link != "down" and self._socket is not None and core.out:
            try:
                core.write(self._socket)
            except OSError:
                pass  # the thread will read the same
        if self._thread is None and not core.closed and (core.requests or core.leases):
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._thread = threading.Thread(target=self._run, name="lock-keeper", daemon=True)
            self._thread.start()
        elif self._thread is not None and self._is_late(core.deadline()):
            try:
                os.write(self._wake_write, b"\0")
            except BlockingIOError:
                pass

    def _is_late(self, at: Optional[int]) -> bool:
        """Whether the thread, as it sleeps, would miss something."""
        core = self._core
        if core.closed or core.link == "down" or core.out:
            return True
        return at is not None and (self._sleeps_until is None or at < self._sleeps_until)

    def _run(self) -> None:
        while not self._core.closed:
            events = self._wait()
            calls: List[Callable[[], Any]] = []
            with self._lock:
                self._turn(events)
                calls, self._core.calls = self._core.calls, []
            for call in calls:
                self._run_call(call)
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._thread = None

    @staticmethod
    def _run_call(call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # of a callback; the thread has others to serve
            threading.excepthook(threading.ExceptHookArgs(
                (type(error), error, error.__traceback__, threading.current_thread())))

    def _wait(self) -> bool:
        """Until something is to be done; whether the socket has something."""
        with self._lock:
            core = self._core
            at = self._sleeps_until = core.deadline()
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            if self._socket is not None:
                poll.register(self._socket, select.POLLIN | (select.POLLOUT if core.out else 0))
        timeout = None if at is None else min(max(0, -(-(at - _now()) // _MS)), 60_000)
        ready = poll.poll(timeout)
        if any(fd == self._wake_read for fd, _ in ready):
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass
        return any(fd != self._wake_read for fd, _ in ready)

    def _turn(self, is_ready: bool) -> None:
        core = self._core
        try:
            if is_ready and self._socket is not None and core.link != "down":
                core.read(self._socket)
            if core.wants_link(_now()):
                self._hang_up()
                self._socket = core.connect()
                core.opened(_now())
            core.tick(_now())
            if self._socket is not None and core.link != "down":
                core.write(self._socket)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._hang_up()
            core.refused(getattr(error, "strerror", None) or str(error), _now())

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0 and self._thread is not None:
                os.close(fd)
        self._thread = None
        self._hang_up()
        self._core.forked()


# ---- For asyncio ----


class AsyncLease(_BaseLease):
    """A lease that is held, for asyncio."""

    _owner: "AsyncLockKeeper"

    async def release(self) -> bool:
        """As Lease.release."""
        return await self._owner._release(self)

    async def extend(self, deadline: float) -> float:
        """As Lease.extend."""
        reply = await self._owner._call({"op": "extend", "lease": self._token,
                                         "deadline_ms": _ms(deadline)})
        self.deadline = reply["deadline_ms"] / 1000
        return self.deadline

    async def wait_lost(self) -> Optional[LostActorLock]:
        """Waits until the lease is lost (the loss) or released (None)."""
        if self.lost is None and not self.released:
            future = self._owner._loop().create_future()
            self._owner._watchers.setdefault(self, []).append(future)
            await future
        return self.lost


class _Acquiring(Awaitable[AsyncLease]):
    """`await` it for the lease, or hold the lease in `async with`."""

    def __init__(self, owner: "AsyncLockKeeper", members: Reply, wait: Optional[float],
                 on_lost: Optional[Callable[[AsyncLease], Any]], cancel_body: bool) -> None:
        self._owner = owner
        self._ask = (members, wait, on_lost)
        self._cancel_body = cancel_body
        self._task: Optional["asyncio.Task[Any]"] = None
        self._did_cancel = False

    def __await__(self) -> Generator[Any, None, AsyncLease]:
        return self._owner._acquire(*self._ask).__await__()

    async def __aenter__(self) -> AsyncLease:
        members, wait, on_lost = self._ask
        task = asyncio.current_task()

        def stop(lease: AsyncLease) -> None:
            if self._task is not None:
                self._did_cancel = True
                self._task.cancel()
            if on_lost is not None:
                on_lost(lease)

        self._task = task if self._cancel_body else None
        try:
            self._lease = await self._owner._acquire(members, wait, stop)
        except BaseException:
            self._task = None
            raise
        return self._lease

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        task, self._task = self._task, None
        ours = self._did_cancel
        if ours and task is not None and hasattr(task, "uncancel"):
            # Somebody else's cancel, besides: that one goes on.
            ours = task.uncancel() == 0 or kind is not asyncio.CancelledError
        release = asyncio.ensure_future(self._lease.release())
        try:
            try:
                await asyncio.shield(release)
            except asyncio.CancelledError:
                if not ours or kind is asyncio.CancelledError:
                    raise
                await release  # our own cancel, which the body did not wait for
        except LostActorLock:
            if kind is None or (kind is asyncio.CancelledError and ours):
                raise


class AsyncLockKeeper:
    """As LockKeeper, for one event loop.

        async with AsyncLockKeeper() as keeper:
            async with keeper.acquire("actor:42", wait=10) as lease:
                await work(lease.fence)

    When the lease is lost, the task in the body is cancelled and the body raises LostActorLock in
    its place (`cancel_body=False`: only at its end)."""

    def __init__(self, socket: Optional[str] = None, *, timeout: float = 10.0) -> None:
        self._core = _Core(_socket_path(socket), timeout, lambda *grant: AsyncLease(self, *grant))
        self._socket: Optional[sockets.socket] = None
        self._event_loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self._watchers: Dict[AsyncLease, List["asyncio.Future[None]"]] = {}
        _clients.add(self)

    # -- What one asks for --

    def acquire(self, key: str, *, wait: Optional[float] = 0, ttl: Optional[float] = None,
                deadline: Optional[float] = None, label: Optional[str] = None,
                bind: Optional[str] = None, pid: Optional[int] = None,
                on_disconnect: Optional[str] = None,
                on_lost: Optional[Callable[[AsyncLease], Any]] = None,
                cancel_body: bool = True) -> _Acquiring:
        """As LockKeeper.acquire. Awaited, it returns the lease; in `async with`, it holds it.
        Cancelling the task that waits cancels the wait."""
        members = _acquire_members(key, ttl, deadline, label, bind, pid, on_disconnect)
        return _Acquiring(self, members, wait, on_lost, cancel_body)

    def adopt(self, key: str, token: str, *, bind: Optional[str] = None,
              pid: Optional[int] = None, on_disconnect: Optional[str] = None,
              on_lost: Optional[Callable[[AsyncLease], Any]] = None,
              cancel_body: bool = True) -> _Acquiring:
        """As LockKeeper.adopt."""
        members = _acquire_members(key, None, None, None, bind, pid, on_disconnect)
        members.update(op="adopt", lease=token)
        return _Acquiring(self, members, 0, on_lost, cancel_body)

    async def hello(self) -> Reply:
        return await self._call({"op": "hello"})

    async def ping(self) -> Reply:
        return await self._call({"op": "ping"})

    async def inspect(self, key: str) -> Reply:
        return await self._call({"op": "inspect", "key": key})

    async def list(self) -> List[Reply]:
        rows: List[Reply] = []
        page = await self._call({"op": "list", "limit": 500})
        while True:
            rows += page["leases"]
            if "next" not in page:
                return rows
            page = await self._call({"op": "list", "limit": 500, "after": page["next"]})

    async def break_lock(self, key: str, grace: float = 0) -> bool:
        reply = await self._call({"op": "break", "key": key, "grace_ms": _ms(grace)})
        return bool(reply["broken"])

    async def close(self) -> None:
        self._act(lambda core, now: core.close())
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()
        for lease in list(self._watchers):
            self._wake_watchers(lease)

    async def __aenter__(self) -> "AsyncLockKeeper":
        return self

    async def __aexit__(self, *unused: Any) -> None:
        await self.close()

    # -- Inside --

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._event_loop is None:
            self._event_loop = loop
        elif self._event_loop is not loop:
            raise RuntimeError("an AsyncLockKeeper belongs to one event loop")
        return loop

    async def _acquire(self, members: Reply, wait: Optional[float],
                       on_lost: Optional[Callable[[AsyncLease], Any]]) -> AsyncLease:
        future: "asyncio.Future[AsyncLease]" = self._loop().create_future()
        number = 0

        def tell(lease: AsyncLease) -> None:
            lease._on_lost = None
            self._wake_watchers(lease)
            if on_lost is not None:
                on_lost(lease)

        def answered(reply: Reply) -> None:
            if future.cancelled():  # the cancel came after the grant
                self._act(lambda core, now: core._give_back(reply, now))
            elif not reply["ok"]:
                future.set_exception(_error(reply))
            else:
                lease = reply[""]
                future.set_result(lease)
                lease._on_lost = tell
                if lease.lost is not None:
                    tell(lease)

        def begin(core: _Core, now: int) -> None:
            nonlocal number
            number = core.acquire(members, answered, now, wait)

        self._act(begin)
        try:
            return await future
        except asyncio.CancelledError:
            self._act(lambda core, now: core.cancel(number, now, abandon=True))
            if future.done() and not future.cancelled() and future.exception() is None:
                asyncio.ensure_future(future.result().release())
            raise

    async def _call(self, members: Reply) -> Reply:
        future: "asyncio.Future[Reply]" = self._loop().create_future()
        self._act(lambda core, now: core.request(members, self._setter(future), now))
        reply = await future
        if not reply["ok"]:
            raise _error(reply)
        return reply

    async def _release(self, lease: AsyncLease) -> bool:
        future: "asyncio.Future[Reply]" = self._loop().create_future()
        self._act(lambda core, now: core.release(lease, self._setter(future), now))
        self._wake_watchers(lease)
        reply = await future
        if lease.lost is not None:
            raise lease.lost.with_traceback(None)
        if not reply["ok"]:
            raise _error(reply)
        return bool(reply["freed"])

    @staticmethod
    def _setter(future: "asyncio.Future[Reply]") -> Callable[[Reply], None]:
        return lambda reply: None if future.done() else future.set_result(reply)

    def _look(self, lease: AsyncLease) -> None:
        self._act(lambda core, now: core.look(lease))

    def _wake_watchers(self, lease: AsyncLease) -> None:
        for future in self._watchers.pop(lease, []):
            if not future.done():
                future.set_result(None)

    def _act(self, action: Callable[[_Core, int], Any]) -> None:
        action(self._core, _now())
        self._turn(False)

    def _turn(self, is_ready: bool) -> None:
        core = self._core
        try:
            if is_ready and self._socket is not None:
                core.read(self._socket)
            if core.wants_link(_now()):
                self._socket = core.connect()
                core.opened(_now())
                self._loop().add_reader(self._socket, self._turn, True)
            core.tick(_now())
            if self._socket is not None:
                core.write(self._socket)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._hang_up()
            core.refused(getattr(error, "strerror", None) or str(error), _now())
        calls, core.calls = core.calls, []
        for call in calls:
            self._run_call(call)
        self._arm()

    def _run_call(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # of a callback; there are others to call
            self._loop().call_exception_handler({
                "message": "on_lost has failed", "exception": error, "lock_keeper": self})

    def _arm(self) -> None:
        core = self._core
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if core.closed or self._event_loop is None:
            return
        at = core.deadline()
        if at is not None:
            self._timer = self._event_loop.call_later(max(0, at - _now()) / 1e9, self._turn, False)
        if self._socket is not None and core.out:
            self._event_loop.add_writer(self._socket, self._turn, False)
        elif self._socket is not None:
            self._event_loop.remove_writer(self._socket)

    def _hang_up(self) -> None:
        if self._socket is not None:
            if self._event_loop is not None:
                self._event_loop.remove_reader(self._socket)
                self._event_loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def _forked(self) -> None:
        if self._socket is not None:
            self._socket.close()  # the loop's own registrations are the parent's
            self._socket = None
        self._core.forked()


# ---- Fork ----

# A child's copy of the connection would keep the leases alive after the parent's death.
_clients: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
