#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A store that refuses who has lost the lock: what a fencing token is for.

    store.py DATABASE put KEY VALUE     writes with the token in LOCK_KEEPER_FENCE
    store.py DATABASE get KEY           prints value and token

    lockctl run actor:42 -- ./store.py actors.db put actor:42 suspended

The store remembers with each key the highest token that has written, and refuses a lower one, in the
same statement as the write. So a process that was asleep while its lock moved on does no harm: the
first write of the next holder has shut it out. Exit: 0 written; 1 refused, or no such key; 64 usage.
"""

import os
import sqlite3
import sys

TABLE = """
CREATE TABLE IF NOT EXISTS actor (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    fence INTEGER NOT NULL
)
"""

# No row is changed where a higher token has written. The same holder may write again: <=.
PUT = """
INSERT INTO actor (key, value, fence) VALUES (:key, :value, :fence)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, fence = excluded.fence
WHERE actor.fence <= excluded.fence
"""


def put(database, key, value, fence):
    """True when it was written, False when a later holder of the lock has been here."""
    with database:
        return database.execute(PUT, {"key": key, "value": value, "fence": fence}).rowcount == 1


def get(database, key):
    """(value, fence), or None."""
    return database.execute("SELECT value, fence FROM actor WHERE key = ?", (key,)).fetchone()


def main(arguments):
    if len(arguments) not in (3, 4) or (len(arguments), arguments[1]) not in ((4, "put"), (3, "get")):
        print(__doc__, file=sys.stderr)
        return 64
    database = sqlite3.connect(arguments[0])
    database.execute(TABLE)
    key = arguments[2]
    if arguments[1] == "get":
        row = get(database, key)
        if row:
            print(*row)
        return 0 if row else 1
    fence = int(os.environ["LOCK_KEEPER_FENCE"])
    if put(database, key, arguments[3], fence):
        return 0
    print(f"store.py: {key} was written with a later token than {fence}: the lock is lost", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
