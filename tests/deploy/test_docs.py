# SPDX-License-Identifier: Apache-2.0
"""The texts: links lead somewhere, every name has its entry, every command can be given as it stands."""

import os
import re

import bench


def texts():
    for folder, names, files in os.walk(bench.ROOT):
        names[:] = [name for name in names if not name.startswith((".", "build")) and name != "node_modules"]
        for name in files:
            if name.endswith(".md"):
                yield os.path.relpath(os.path.join(folder, name), bench.ROOT)


def anchors(path):
    found = set()
    for heading in re.findall(r"^#+ (.*)$", bench.read(path), re.M):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def wire(kind):
    return re.findall(rf'^WIRE_{kind}\(\w+, "(\w+)"\)', bench.read("protocol", "wire.def"), re.M)


def log_messages():
    folder = os.path.join(bench.ROOT, "sidecar")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".c"):
            text = re.sub(r'"\s*\n\s*"', "", bench.read("sidecar", name))
            for call in re.findall(r"\blog_(?:info|warn|error)\(([^;]*?)(?:,\s*LOG_|\);)", text):
                yield from re.findall(r'"((?:[^"\\]|\\.)*)"', call)


def test_links_lead_somewhere(_):
    wrong = []
    for path in texts():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", bench.read(path), flags=re.M | re.S)):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            whole = os.path.normpath(os.path.join(os.path.dirname(path), target)) if target else path
            if not os.path.exists(os.path.join(bench.ROOT, whole)):
                wrong.append(f"{path}: {link}")
            elif anchor and whole.endswith(".md") and anchor not in anchors(whole):
                wrong.append(f"{path}: {link} (no such heading)")
    assert not wrong, wrong


def test_every_error_and_reason_has_its_entry(_):
    headings = set(re.findall(r"^### (.*)$", bench.read("docs", "TROUBLESHOOTING.md"), re.M))
    wanted = set(wire("ERROR")) | {f"revoked: {reason}" for reason in wire("REASON")}
    assert len(wanted) > 15
    assert headings == wanted, headings ^ wanted


def test_every_log_line_is_explained(_):
    table = bench.read("docs", "OPERATIONS.md").split("## Log lines")[1].split("\n## ")[0]
    messages = set(log_messages())
    assert len(messages) > 15, messages
    missing = [message for message in messages if f"`{message}`" not in table]
    assert not missing, missing


def test_flags_are_real_ones(_):
    help_texts = bench.run(bench.LOCK_KEEPER, "--help").stdout
    if not os.access(bench.LOCKCTL, os.X_OK):
        raise bench.Skip("there is no lockctl in this build")
    help_texts += "".join(bench.run(bench.LOCKCTL, *words, "--help").stdout for words in
                          [[], *([command] for command in ("run", "acquire", "list", "inspect", "break", "ping"))])
    known = set(re.findall(r"--[a-z][\w-]+", help_texts))
    wrong = []
    for path in ("docs/OPERATIONS.md", "docs/TROUBLESHOOTING.md", "docs/FAQ.md", "docs/SHELL.md", "docs/CRON.md",
                 "docs/KUBERNETES.md", "examples/cron/README.md", "examples/kubernetes/README.md"):
        # What stands behind a command of the reader's is that command's.
        text = re.sub(r"make-report --all", "make-report", bench.read(path))
        wrong += [f"{path}: {flag}" for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", text) if flag not in known]
    assert not wrong, wrong


def test_the_blocks_of_shell_are_shell(_):
    wrong = []
    for path in texts():
        for block in re.findall(r"^```sh\n(.*?)^```", bench.read(path), re.M | re.S):
            done = bench.run("sh", "-n", input=block)
            if done.returncode != 0:
                wrong.append((path, done.stdout))
    assert not wrong, wrong


def test_the_shell_tutorial_runs(here):
    if not os.access(bench.LOCKCTL, os.X_OK):
        raise bench.Skip("there is no lockctl in this build")
    tools = here.path("bin")
    os.mkdir(tools)
    os.symlink(bench.LOCKCTL, os.path.join(tools, "lockctl"))
    with open(here.path("make-report"), "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\necho report $LOCK_KEEPER_KEY\n")
    os.chmod(here.path("make-report"), 0o755)
    keeper = here.keeper(here.redis().url)
    given = {"PATH": tools + ":" + os.environ["PATH"], "LOCK_KEEPER_SOCKET": keeper.socket}

    blocks = re.findall(r"^```sh\n(.*?)^```", bench.read("docs", "SHELL.md"), re.M | re.S)
    assert len(blocks) == 4
    for block in blocks[:2]:
        assert bench.run("sh", "-c", block, env=given, cwd=here.folder).stdout == "report nightly-report\n", block
    with open(here.path("script"), "w", encoding="utf-8") as file:
        file.write(blocks[2])
    assert bench.run("sh", here.path("script"), env=given).stdout == "with the lock\n"
    assert bench.run("sh", "-e", "-c", blocks[3], env=given).returncode == 0
    client = here.client()
    client.acquire("nightly-report")
    done = bench.run("sh", "-c", blocks[1], env=given, cwd=here.folder)
    assert done.stdout.endswith("somebody else makes it\n"), done.stdout


def test_the_library_package_has_the_sonames_number(_):
    number = re.search(r"soversion: '(\d+)'", bench.read("client", "meson.build"))
    if not number:
        raise bench.Skip("there is no library yet")
    name = f"liblockkeeper{number[1]}"
    assert f"Package: {name}\n" in bench.read("debian", "control")
    assert os.path.exists(os.path.join(bench.ROOT, "debian", f"{name}.install"))


def test_the_package_has_the_projects_version(_):
    version = re.search(r"version: '([\d.]+)'", bench.read("meson.build"))[1]
    assert bench.read("debian", "changelog").startswith(f"lock-keeper ({version}) ")


if __name__ == "__main__":
    bench.main(globals())
