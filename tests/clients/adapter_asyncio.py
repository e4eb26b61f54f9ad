# SPDX-License-Identifier: Apache-2.0
"""The adapter of client/python, for asyncio. See README.md here."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../client/python"))
import lock_keeper  # noqa: E402
from adapter_words import options_of, refused, say  # noqa: E402


async def acquire(keeper, name, key, options, leases):
    def lost(lease):
        say("lost", name, reason=lease.lost.reason, safe=round(lease.lost.safe * 1000))

    try:
        lease = leases[name] = await keeper.acquire(key, on_lost=lost, **options)
    except lock_keeper.LockKeeperError as error:
        refused(name, error)
    except asyncio.CancelledError:
        say("refused", name, "errCancelled")
    else:
        say("granted", name, fence=lease.fence, ttl=round(lease.ttl * 1000),
            deadline=round(lease.deadline * 1000))


async def release(name, lease):
    try:
        say("released", name, freed=str(await lease.release()).lower())
    except lock_keeper.LockKeeperError as error:
        refused(name, error)


async def main():
    keeper = None
    leases, tasks = {}, {}
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while True:
        command, *words = (await stdin.readline()).decode().split() or ["quit"]
        if command == "open":
            keeper = lock_keeper.AsyncLockKeeper(words[0], timeout=int(words[1]) / 1000)
        elif command == "acquire":
            tasks[words[0]] = asyncio.ensure_future(
                acquire(keeper, words[0], words[1], options_of(words[2:]), leases))
        elif command == "cancel":
            tasks[words[0]].cancel()
        elif command == "release":
            tasks[words[0]] = asyncio.ensure_future(release(words[0], leases[words[0]]))
        elif command == "valid":
            say("valid", words[0], str(leases[words[0]].valid()).lower())
        elif command == "quit":
            break
    if keeper:
        await keeper.close()


asyncio.run(main())
