# SPDX-License-Identifier: Apache-2.0
"""What the two adapters of client/python have in common: the words they speak."""

import os
import threading

import lock_keeper

_printing = threading.Lock()


def say(*words, **members):
    with _printing:
        print(*words, *("%s=%s" % m for m in members.items() if m[1] is not None), flush=True)


def refused(name, error):
    members = {}
    if isinstance(error, lock_keeper.LockHeld):
        after = error.retry_after
        members = {"holder": error.holder.get("label"),
                   "retry_after": "none" if after is None else round(after * 1000)}
    elif isinstance(error, lock_keeper.LostActorLock):
        members = {"reason": error.reason}
    say("refused", name, error.name, **members)


def options_of(words):
    """In seconds, as the client takes them."""
    options = dict(word.split("=", 1) for word in words)
    for name in ("wait", "ttl", "deadline"):
        if name in options:
            options[name] = int(options[name]) / 1000
    if options.get("wait", 0) < 0:
        options["wait"] = None
    if options.get("bind") == "pid":
        options["pid"] = os.getpid()
    return options
