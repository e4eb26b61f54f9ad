# SPDX-License-Identifier: Apache-2.0
"""The man pages: that they can be rendered, and name all there is."""

import os
import re
import shutil
import subprocess

import bench

FOLDER = os.path.join(bench.ROOT, "docs", "man")


def names(*kinds):
    """The names in wire.def of some kinds."""
    found = re.findall(rf'^WIRE_(?:{"|".join(kinds)})\(\w+, "(\w+)"\)', bench.read("protocol", "wire.def"), re.M)
    assert found, kinds
    return found


def bold(page):
    """What a page's source names in bold."""
    text = bench.read("docs", "man", page).replace("\\_", "_")
    return set(re.findall(r"\*([\w-]+)\*", text))


def test_every_page_renders_without_a_complaint(here):
    scdoc = bench.need("scdoc")
    for source in sorted(os.listdir(FOLDER)):
        if not source.endswith(".scd"):
            continue
        page = here.path(source.removesuffix(".scd"))
        with open(os.path.join(FOLDER, source), "rb") as text, open(page, "wb") as out:
            done = subprocess.run([scdoc], stdin=text, stdout=out, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, (source, done.stderr)
        if shutil.which("mandoc"):
            done = bench.run("mandoc", "-T", "lint", "-W", "error", page)
            assert done.returncode == 0, (source, done.stdout)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, check=False)
            assert done.returncode == 0 and not done.stderr, (source, done.stderr)


def test_the_protocol_page_names_everything(_):
    kinds = ("OP", "ERROR", "REASON", "EVENT", "CAP", "BIND", "DISCONNECT", "STATE")
    missing = set(names(*kinds)) - bold("lock-keeper-protocol.7.scd")
    assert not missing, missing


def test_the_protocol_page_names_nothing_else(_):
    text = bench.read("docs", "man", "lock-keeper-protocol.7.scd")
    wrong = set(re.findall(r"\berr[A-Z]\w+", text)) - set(names("ERROR"))
    assert not wrong, wrong


def test_the_library_page_names_every_function(_):
    header = bench.read("client", "lock_keeper.h")
    functions = set(re.findall(r"LOCK_KEEPER_API[^;(]*?\b(lock_keeper_\w+)\(", re.sub(r"//.*", "", header)))
    page = bold("liblockkeeper.3.scd")
    assert len(functions) > 40, functions
    assert not functions - page, functions - page
    unknown = {name for name in page if name.startswith("lock_keeper_")} - functions
    assert not unknown, unknown


def test_the_sidecar_page_names_every_flag_and_exit_code(_):
    page = bench.read("docs", "man", "lock-keeper.8.scd").replace("\\_", "_")
    flags = re.findall(r"^  (--[\w-]+)", bench.run(bench.LOCK_KEEPER, "--help").stdout, re.M)
    assert len(flags) > 15, flags
    missing = [flag for flag in flags if f"\n*{flag}*" not in page]
    assert not missing, missing
    codes = {"EX_USAGE": 64, "EX_OSERR": 71, "EX_CANTCREAT": 73, "EX_TEMPFAIL": 75, "EX_NOPERM": 77,
             "EX_CONFIG": 78}
    sources = os.path.join(bench.ROOT, "sidecar")
    used = set()
    for name in os.listdir(sources):
        if name.endswith(".c"):
            used |= set(re.findall(r"\bEX_[A-Z]+", bench.read("sidecar", name)))
    for name in used - {"EX_OK"}:
        assert f"\n*{codes[name]}*\n" in page, name


if __name__ == "__main__":
    bench.main(globals())
