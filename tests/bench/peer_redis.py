# SPDX-License-Identifier: Apache-2.0
"""redis-py's Lock, measured as lock-keeper is. One line of JSON.

    peer_redis.py REDIS pairs IN-FLIGHT MS
                        handover MS"""

import asyncio
import json
import os
import random
import sys
import time

import redis.asyncio


def now_ms():
    return time.monotonic_ns() / 1e6


async def pairs(client, in_flight, ms):
    start = now_ms() + ms * 0.1
    end = start + ms
    times = []

    async def run(number):
        while (before := now_ms()) < end:
            lock = client.lock(f"lock:peer{os.getpid()}:{number:06}", timeout=30)
            await lock.acquire()
            await lock.release()
            if before >= start:
                times.append(now_ms() - before)

    await asyncio.gather(*(run(number) for number in range(in_flight)))
    times.sort()
    return {"per_second": len(times) * 1000 / (now_ms() - start),
            "p50_us": 1000 * times[len(times) // 2],
            "p99_us": 1000 * times[int(0.99 * (len(times) - 1))]}


async def handover(client, ms):
    name = f"lock:peer{os.getpid()}"
    locks = [client.lock(name, timeout=30), client.lock(name, timeout=30)]
    times = []
    end = now_ms() + ms
    await locks[0].acquire()
    at = 1
    while now_ms() < end:
        waiting = asyncio.create_task(locks[at].acquire())
        await asyncio.sleep(0.005 + random.random() * 0.2)  # at any moment of its polling
        before = now_ms()
        await locks[1 - at].release()
        await waiting
        times.append(now_ms() - before)
        at = 1 - at
    times.sort()
    return {"p50_us": 1000 * times[len(times) // 2]}


async def main():
    path, what, *rest = sys.argv[1:]
    client = redis.asyncio.Redis(unix_socket_path=path)
    measured = await {"pairs": pairs, "handover": handover}[what](client, *map(int, rest))
    print(json.dumps(measured))
    await client.close()


asyncio.run(main())
