# SPDX-License-Identifier: Apache-2.0
"""How each language's adapter is started, what it needs, and where its tutorial stands."""

import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CLIENT = os.path.join(ROOT, "client")


class Language:
    waits_on = True  # a wait outlasts the sidecar
    has_page = False
    hangs_up = False  # where others would cancel: there is one lease to a connection
    folder = ""
    tools = ()

    def __init__(self, build):
        self.build = build
        self.command = []

    def readme(self):
        """The first fenced block of the README in the language, and what it prints (the next)."""
        with open(os.path.join(CLIENT, self.folder, "README.md"), encoding="utf-8") as readme:
            blocks = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read(), re.M | re.S)
        for number, (kind, text) in enumerate(blocks):
            if kind == self.fence:
                return text, blocks[number + 1][1]
        raise LookupError("no tutorial in the README of " + self.folder)

    def write(self, folder, name, text):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


class Python(Language):
    folder, fence, tools, has_page = "python", "python", (), True

    def __init__(self, build):
        super().__init__(build)
        self.command = [sys.executable, os.path.join(HERE, "adapter_python.py")]

    def tutorial(self, folder):
        program, expected = self.readme()
        path = self.write(folder, "tutorial.py", program)
        start = "import sys; sys.path.insert(0, %r); import runpy; runpy.run_path(%r)"
        return [sys.executable, "-c", start % (os.path.join(CLIENT, "python"), path)], expected


class Asyncio(Python):
    fence = "python3"  # the second tutorial's

    def __init__(self, build):
        super().__init__(build)
        self.command = [sys.executable, os.path.join(HERE, "adapter_asyncio.py")]


class Node(Language):
    folder, fence, tools = "node", "js", ("node",)

    def __init__(self, build):
        super().__init__(build)
        self.command = ["node", os.path.join(HERE, "adapter_node.js")]

    def tutorial(self, folder):
        program, expected = self.readme()
        modules = os.path.join(folder, "node_modules")
        os.makedirs(modules, exist_ok=True)
        link = os.path.join(modules, "lock-keeper")
        if not os.path.islink(link):
            os.symlink(os.path.join(CLIENT, "node"), link)
        return ["node", self.write(folder, "tutorial.mjs", program)], expected


class Go(Language):
    folder, fence, tools = "go", "go", ("go",)

    def __init__(self, build):
        super().__init__(build)
        binary = os.path.join(build, "adapter_go")
        self.compile(os.path.join(HERE, "adapter_go"), binary)
        self.command = [binary]

    def compile(self, folder, binary):
        env = {**os.environ, "GOCACHE": os.path.join(self.build, "go-cache"), "GOFLAGS": "-mod=mod",
               "GOPROXY": "off", "GOTOOLCHAIN": "local", "GO111MODULE": "on", "GOWORK": "off",
               "GOPATH": os.path.join(self.build, "go-path")}
        subprocess.run(["go", "build", "-o", binary, "."], cwd=folder, env=env, check=True)

    def tutorial(self, folder):
        program, expected = self.readme()
        module = os.path.join(folder, "tutorial_go")
        os.makedirs(module, exist_ok=True)
        self.write(module, "main.go", program)
        self.write(module, "go.mod", "module tutorial\n\ngo 1.19\n\nrequire lockkeeper v0.0.0\n\n"
                   "replace lockkeeper => %s\n" % os.path.join(CLIENT, "go"))
        binary = os.path.join(folder, "tutorial_go", "tutorial")
        self.compile(module, binary)
        return [binary], expected


class Bash(Language):
    folder, fence, tools, waits_on = "bash", "bash", ("bash", "socat"), False
    hangs_up = True

    def __init__(self, build):
        super().__init__(build)
        self.command = ["bash", os.path.join(HERE, "adapter_bash.sh")]

    def tutorial(self, folder):
        program, expected = self.readme()
        path = self.write(folder, "tutorial.sh", program)
        shutil.copy(os.path.join(CLIENT, "bash", "lock_keeper.sh"), folder)
        return ["bash", path], expected


LANGUAGES = {"python": Python, "asyncio": Asyncio, "node": Node, "go": Go, "bash": Bash}


def missing(name):
    """Why this language cannot be tested here; None if it can."""
    for tool in LANGUAGES[name].tools:
        if not shutil.which(tool):
            return "%s is not installed (./scripts/setup --test)" % tool
    return None


def make(name, build):
    return LANGUAGES[name](os.path.abspath(build))


def error_names():
    """Those of the protocol."""
    with open(os.path.join(ROOT, "protocol", "wire.def"), encoding="utf-8") as wire:
        return re.findall(r'^WIRE_ERROR\(\w+, "(\w+)"\)', wire.read(), re.M)


def masked(text):
    """Numbers differ from run to run."""
    return re.sub(r"\d+", "N", text).strip()
