# SPDX-License-Identifier: Apache-2.0
#
# redis-py's Lock, told what to do line by line: see locker.h.
#
#   python3 locker.py redis-py SOCKET KEY
import sys

import redis

client = redis.Redis(unix_socket_path=sys.argv[2])
lock = client.lock(sys.argv[3], timeout=60, sleep=0.003)


def say(word):
    print(word, flush=True)


client.ping()
say('ready')
for line in sys.stdin:
    command = line.strip()
    if command == 'lock':
        say('locked' if lock.acquire(blocking=True) else 'refused')
    elif command == 'try':
        say('locked' if lock.acquire(blocking=False) else 'refused')
    elif command == 'unlock':
        say('unlocking')
        try:
            lock.release()
            say('unlocked')
        except redis.exceptions.LockError:
            say('lost')
