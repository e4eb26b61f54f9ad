# SPDX-License-Identifier: Apache-2.0
"""The adapter of client/python, for threads. See README.md here."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../client/python"))
import lock_keeper  # noqa: E402
from adapter_words import options_of, refused, say  # noqa: E402


def main():
    keeper = None
    pending, leases = {}, {}

    def lost(name):
        return lambda lease: say("lost", name, reason=lease.lost.reason,
                                 safe=round(lease.lost.safe * 1000))

    def settle(name, asked):
        try:
            leases[name] = asked.result()
        except lock_keeper.LockKeeperError as error:
            refused(name, error)
        else:
            lease = leases[name]
            say("granted", name, fence=lease.fence, ttl=round(lease.ttl * 1000),
                deadline=round(lease.deadline * 1000))

    for line in sys.stdin:
        command, *words = line.split()
        if command == "open":
            keeper = lock_keeper.LockKeeper(words[0], timeout=int(words[1]) / 1000)
        elif command == "acquire":
            name, key = words[:2]
            pending[name] = keeper.start_acquire(key, on_lost=lost(name), **options_of(words[2:]))
            pending[name].add_done_callback(lambda asked, name=name: settle(name, asked))
        elif command == "cancel":
            pending[words[0]].cancel()
        elif command == "release":
            try:
                say("released", words[0], freed=str(leases[words[0]].release()).lower())
            except lock_keeper.LockKeeperError as error:
                refused(words[0], error)
        elif command == "valid":
            say("valid", words[0], str(leases[words[0]].valid()).lower())
        elif command == "quit":
            break
    if keeper:
        keeper.close()


main()
