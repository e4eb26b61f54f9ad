# SPDX-License-Identifier: Apache-2.0
"""What docs/OPERATIONS.md says of Redis and signals, tried."""

import os
import re
import signal

import bench


def acl_rules():
    lines = re.findall(r"^user lock-keeper .*$", bench.read("docs", "OPERATIONS.md"), re.M)
    assert len(lines) == 1
    return lines[0].replace(">PASSWORD", ">secret").split()


def keeper_as(here, redis, *flags):
    with open(here.path("password"), "w", encoding="utf-8") as file:
        file.write("secret\n")
    url = f"redis://lock-keeper@127.0.0.1:{redis.port}/1"
    keeper = here.keeper(url, "--redis-password-file", here.path("password"), "--lock-ttl", "600ms", *flags)
    here.until("an answer of Redis", lambda: re.search("connected to Redis|cannot be reached", keeper.log()))
    return keeper


def channels(redis):
    return redis.ask("PUBSUB", "CHANNELS")


def use_everything(here, redis, keeper):
    """What needs a right, whatever is answered; a lease is held over some heartbeats."""
    client, other = here.client(), here.client()
    held = client.ask(op="acquire", key="a", notify=["renewed"])
    if held["ok"] and client.receive()["event"] == "renewed":
        # Who waits for a key that is held elsewhere subscribes.
        redis.ask("SET", "lock:b", "foreign", "PX", 60000, database=1)
        other.send(op="acquire", key="b", wait_ms=60000)
        here.until("a subscription", lambda: channels(redis) or "hears of freed" in keeper.log()
                   or "refuses SUBSCRIBE" in keeper.log())
        client.ask(op="extend", lease=held["lease"], deadline_ms=60000)
        client.ask(op="adopt", key="a", lease=held["lease"])
        client.ask(op="inspect", key="a")
        client.ask(op="release", lease=held["lease"])
        redis.ask("DEL", "lock:b", database=1)
        other.receive()
        here.until("the end of the subscription", lambda: not channels(redis))
    client.close()
    other.close()


def test_the_acl_is_enough(here):
    redis = here.redis(" ".join(acl_rules()))
    keeper = keeper_as(here, redis)
    use_everything(here, redis, keeper)
    assert here.client().ask(op="break", key="a")["ok"]
    assert keeper.stop() == 0
    warnings = [line for line in keeper.log().splitlines() if "level=warn" in line]
    assert len(warnings) == 1 and "lock broken" in warnings[0], warnings
    assert redis.ask("ACL", "LOG") == []


def test_each_right_of_the_acl_is_needed(here):
    rules = acl_rules()
    redis = here.redis(" ".join(rules))
    unneeded = []
    for right in rules[4:]:
        if right[0] not in "+~&":
            continue
        redis.ask("ACL", "SETUSER", *rules[1:2], "reset", *[rule for rule in rules[2:] if rule != right])
        redis.ask("ACL", "LOG", "RESET")
        keeper = keeper_as(here, redis)
        use_everything(here, redis, keeper)
        keeper.process.kill()
        keeper.process.wait()
        if not redis.ask("ACL", "LOG"):
            unneeded.append(right)
        redis.ask("FLUSHALL")
    assert not unneeded, unneeded


def test_a_rotated_password_needs_no_restart(here):
    redis = here.redis(" ".join(acl_rules()))
    keeper = keeper_as(here, redis)
    redis.ask("ACL", "SETUSER", "lock-keeper", "resetpass", ">other")
    redis.ask("CLIENT", "KILL", "USER", "lock-keeper")
    here.until("the refusal", lambda: "WRONGPASS" in keeper.log())
    with open(here.path("password"), "w", encoding="utf-8") as file:
        file.write("other\n")
    client = here.client()
    here.until("Redis again", lambda: client.ask(op="ping")["redis"] == "up")


def test_sigusr2_leaves_the_keys_and_the_next_one_adopts(here):
    redis = here.redis()
    keeper = here.keeper(redis.url)
    client = here.client()
    lease = client.acquire("a")
    os.kill(keeper.pid, signal.SIGUSR2)
    assert keeper.process.wait(bench.PATIENCE_S) == 0
    assert redis.ask("EXISTS", "lock:a") == 1
    here.keeper(redis.url)
    adopted = here.client().ask(op="adopt", key="a", lease=lease["lease"])
    assert adopted["ok"] and adopted["fence"] == lease["fence"], adopted


def test_a_second_one_on_the_same_socket_ends_with_75(here):
    keeper = here.keeper(here.redis().url)
    second = bench.run(bench.LOCK_KEEPER, "--socket", keeper.socket)
    assert second.returncode == 75, second.stdout


def test_the_counter_has_the_documented_name(here):
    redis = here.redis()
    here.keeper(redis.url)
    here.client().acquire("a")
    names = sorted(redis.ask("KEYS", "*"))
    assert len(names) == 2 and names[1] == "lock:a" and names[0].startswith("lock-keeper:fence"), names


if __name__ == "__main__":
    bench.main(globals())
