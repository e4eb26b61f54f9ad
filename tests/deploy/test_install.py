# SPDX-License-Identifier: Apache-2.0
"""meson install, into a folder (DESTDIR): what comes to be where, and that it works from there."""

import json
import os

import bench


def option(name):
    options = json.loads(bench.run("meson", "introspect", "--buildoptions", bench.BUILD).stdout)
    return next(entry["value"] for entry in options if entry["name"] == name)


def install(folder):
    done = bench.run("meson", "install", "-C", bench.BUILD, "--no-rebuild", "--destdir", folder)
    assert done.returncode == 0, done.stdout
    return folder + option("prefix")


def have(prefix, *paths):
    missing = [path for path in paths if not os.path.isfile(os.path.join(prefix, path))]
    assert not missing, missing


def test_programs_units_and_texts_are_installed(here):
    prefix = install(here.path("dest"))
    program = os.path.join(prefix, option("bindir"), "lock-keeper")
    assert bench.run(program, "--version").stdout.startswith("lock-keeper ")
    have(prefix, "lib/systemd/system/lock-keeper.service", "lib/systemd/system/lock-keeper.socket",
         "lib/sysusers.d/lock-keeper.conf")
    have(os.path.join(prefix, option("datadir"), "doc", "lock-keeper"), "README.md", "LICENSE",
         "protocol/PROTOCOL.md", "docs/OPERATIONS.md", "docs/TROUBLESHOOTING.md",
         "examples/systemd/lock-keeper.service", "examples/kubernetes/deployment.yaml",
         "examples/fencing/store.py", "examples/cron/lock-keeper-example")


def test_the_unit_starts_the_installed_program(here):
    prefix = install(here.path("dest"))
    with open(os.path.join(prefix, "lib/systemd/system/lock-keeper.service"), encoding="utf-8") as unit:
        lines = unit.read().splitlines()
    program = os.path.join(option("prefix"), option("bindir"), "lock-keeper")
    assert f"ExecStart={program}" in lines, [line for line in lines if line.startswith("Exec")]


def test_man_pages_are_installed(here):
    bench.need("scdoc")
    prefix = install(here.path("dest"))
    pages = [name for name in os.listdir(os.path.join(bench.ROOT, "docs", "man")) if name.endswith(".scd")]
    assert len(pages) >= 3, pages
    for page in pages:
        name = page.removesuffix(".scd")
        have(os.path.join(prefix, option("mandir")), f"man{name[-1]}/{name}")


def test_nothing_of_the_build_or_the_tests_is_installed(here):
    folder = here.path("dest")
    install(folder)
    for path, _, files in os.walk(folder):
        for name in files:
            whole = os.path.join(path, name)
            assert "meson.build" != name, whole
            assert not name.endswith((".scd", ".o")), whole
            # Of the archives, only the client library's is for others.
            assert not name.endswith(".a") or name == "liblockkeeper.a", whole
            assert os.path.abspath(whole).startswith(folder + option("prefix") + "/"), whole


if __name__ == "__main__":
    bench.main(globals())
