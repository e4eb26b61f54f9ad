# SPDX-License-Identifier: Apache-2.0
"""examples/fencing and examples/cron: that they do what their texts say."""

import os
import re
import subprocess
import sys

import bench

STORE = os.path.join(bench.ROOT, "examples", "fencing", "store.py")


def need_lockctl():
    if not os.access(bench.LOCKCTL, os.X_OK):
        raise bench.Skip("there is no lockctl in this build")


def environment(here, keeper):
    """PATH with our lockctl in it, and the socket."""
    tools = here.path("bin")
    os.makedirs(tools, exist_ok=True)
    if not os.path.exists(os.path.join(tools, "lockctl")):
        os.symlink(bench.LOCKCTL, os.path.join(tools, "lockctl"))
    return {"PATH": tools + ":" + os.environ["PATH"], "LOCK_KEEPER_SOCKET": keeper.socket}


def store(here, *arguments, fence=None):
    extra = {} if fence is None else {"LOCK_KEEPER_FENCE": str(fence)}
    return bench.run(sys.executable, STORE, here.path("actors.db"), *arguments, env={**os.environ, **extra})


# ---- fencing ----

def test_a_token_is_refused_after_the_lock_moved_on(here):
    redis = here.redis()
    here.keeper(redis.url)
    sleeper, other = here.client(), here.client()
    old = sleeper.acquire("actor:42")["fence"]
    assert store(here, "put", "actor:42", "first", fence=old).returncode == 0
    # It does not read its revoked event: it is asleep.
    assert other.ask(op="break", key="actor:42")["broken"]
    new = other.acquire("actor:42")["fence"]
    assert new > old
    # Not before the next holder has written: the store has not heard of it yet.
    assert store(here, "put", "actor:42", "late", fence=old).returncode == 0
    assert store(here, "put", "actor:42", "second", fence=new).returncode == 0
    refused = store(here, "put", "actor:42", "stale", fence=old)
    assert refused.returncode == 1 and "the lock is lost" in refused.stdout, refused.stdout
    assert store(here, "get", "actor:42").stdout == f"second {new}\n"
    # The holder may write again, and another key is another matter.
    assert store(here, "put", "actor:42", "third", fence=new).returncode == 0
    assert store(here, "put", "actor:43", "first", fence=old).returncode == 0


def test_tokens_grow_over_a_redis_that_lost_its_counter(here):
    redis = here.redis()
    here.keeper(redis.url)
    client = here.client()
    before = client.acquire("a")
    client.ask(op="release", lease=before["lease"])
    redis.ask("FLUSHALL")
    assert client.acquire("a")["fence"] > before["fence"]


def test_the_statement_in_the_readme_is_the_programs(_):
    statement = re.search(r"```sql\n(INSERT.*?)\n```", bench.read("examples", "fencing", "README.md"), re.S)
    assert statement and statement[1] in bench.read("examples", "fencing", "store.py")


def test_the_commands_of_the_readme(here):
    need_lockctl()
    commands = re.search(r"```sh\n(.*?)\n```", bench.read("examples", "fencing", "README.md"), re.S)[1]
    os.symlink(STORE, here.path("store.py"))
    given = environment(here, here.keeper(here.redis().url))
    done = bench.run("sh", "-e", "-c", commands, cwd=here.folder, env=given)
    assert done.returncode == 1, done
    assert re.fullmatch(r"store.py: actor:42 was written with a later token than \d+: the lock is lost\n",
                        done.stdout), done.stdout
    assert store(here, "get", "actor:42").stdout.startswith("second ")


# ---- cron ----

def cron_command():
    """The command of the crontab line, and its key."""
    lines = [line for line in bench.read("examples", "cron", "lock-keeper-example").splitlines()
             if re.match(r"[\d*]", line)]
    assert len(lines) == 1
    fields = lines[0].split(None, 6)
    assert len(fields) == 7 and re.fullmatch(r"\d+ \d+ \* \* \*", " ".join(fields[:5])), fields
    return fields[6]


def test_the_crontab_runs_its_command_once(here):
    need_lockctl()
    command = cron_command().replace("/usr/local/bin/make-report", f"sh -c 'echo run >>{here.path('ran')}'")
    assert "make-report" not in command, command
    given = environment(here, here.keeper(here.redis().url))
    client = here.client()
    lease = client.acquire("nightly-report")
    done = bench.run("sh", "-c", command, env=given)
    assert (done.returncode, os.path.exists(here.path("ran"))) == (75, False), done
    assert done.stdout.count("\n") == 1, done
    client.ask(op="release", lease=lease["lease"])
    done = bench.run("sh", "-c", command, env=given)
    assert (done.returncode, done.stdout) == (0, ""), done
    with open(here.path("ran"), encoding="utf-8") as file:
        assert file.read() == "run\n"


def test_the_crontab_says_so_where_there_is_no_keeper(here):
    need_lockctl()
    given = {"PATH": os.path.dirname(bench.LOCKCTL) + ":" + os.environ["PATH"],
             "LOCK_KEEPER_SOCKET": here.path("nothing")}
    done = subprocess.run(["sh", "-c", cron_command()], env=given, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 69 and done.stderr.count("\n") == 1, done


if __name__ == "__main__":
    bench.main(globals())
