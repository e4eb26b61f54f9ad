# SPDX-License-Identifier: Apache-2.0
"""examples/kubernetes and the Containerfile: what they say, against the programs and each other."""

import os
import re
import shutil
import subprocess

import bench

try:
    import yaml
except ImportError:
    yaml = None


def documents(name):
    if not yaml:
        raise bench.Skip("python3-yaml is not installed")
    return list(yaml.safe_load_all(bench.read("examples", "kubernetes", name)))


def pods():
    """(where, spec) of every pod of the examples."""
    for name in sorted(os.listdir(os.path.join(bench.ROOT, "examples", "kubernetes"))):
        if name.endswith(".yaml"):
            for document in documents(name):
                spec = document.get("spec", {})
                spec = spec.get("jobTemplate", {}).get("spec", spec)
                if "template" in spec:
                    yield f"{name}: {document['metadata']['name']}", spec["template"]["spec"]


def containers(spec):
    return spec["initContainers"] + spec["containers"]


def test_each_pod_has_the_native_sidecar(_):
    found = list(pods())
    assert len(found) == 2
    for where, spec in found:
        sidecar = spec["initContainers"][-1]
        assert sidecar["name"] == "lock-keeper" and sidecar["restartPolicy"] == "Always", where
        assert sidecar["startupProbe"]["exec"]["command"] == ["lockctl", "ping"], where
        # Liveness must not depend on Redis.
        if "livenessProbe" in sidecar:
            assert sidecar["livenessProbe"]["exec"]["command"] == ["lockctl", "ping"], where


def test_all_share_the_sockets_folder_and_its_group(_):
    for where, spec in pods():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert "emptyDir" in volumes["lock-keeper"], where
        assert spec["securityContext"]["fsGroup"] > 0, where
        for container in containers(spec):
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounts) <= set(volumes), where
            assert mounts["lock-keeper"] == "/run/lock-keeper", where


def test_nobody_is_root_or_may_become_it(_):
    for where, spec in pods():
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in containers(spec):
            context = container["securityContext"]
            assert context["runAsUser"] > 0 and context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
        assert spec["initContainers"][-1]["securityContext"]["readOnlyRootFilesystem"] is True, where


def test_secrets_that_are_mounted_exist(_):
    secrets = {document["metadata"]["name"]
               for document in documents("deployment.yaml") if document["kind"] == "Secret"}
    for where, spec in pods():
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets, where


def test_the_sidecars_flags_are_taken(_):
    for where, spec in pods():
        done = bench.run(bench.LOCK_KEEPER, *spec["initContainers"][-1]["args"], "--check-config",
                         env={"PATH": os.environ["PATH"]})
        assert done.returncode == 0, (where, done.stdout)


def test_the_workers_commands_run(here):
    if not os.access(bench.LOCKCTL, os.X_OK):
        raise bench.Skip("there is no lockctl in this build")
    keeper = here.keeper(here.redis().url)
    given = {"PATH": os.environ["PATH"], "LOCK_KEEPER_SOCKET": keeper.socket}
    for where, spec in pods():
        command = spec["containers"][0]["command"]
        assert command[0] == "lockctl" and command[-1] == "./make-report", where
        command = [bench.LOCKCTL, *command[1:-1], "true"]
        assert bench.run(*command, env=given).returncode == 0, where
        code = next((int(word.split("=")[1]) for word in command if word.startswith("--conflict-exit")), None)
        if code is not None:
            client = here.client()
            lease = client.acquire("nightly-report")["lease"]
            held = bench.run(*command[:-1], "sh", "-c", "echo it ran", env=given)
            assert held.returncode == code and "it ran" not in held.stdout, (where, held)
            client.ask(op="release", lease=lease)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in spec["initContainers"][-1]:
                words = spec["initContainers"][-1][probe]["exec"]["command"]
                assert bench.run(bench.LOCKCTL, *words[1:], env=given).returncode == 0, where


def test_two_users_of_the_pods_group_meet_at_the_socket(here):
    """As in the pod: a folder of the group with its setgid bit, and a user each."""
    if os.geteuid() != 0:
        raise bench.Skip("it takes root to be two users")
    setpriv, socat = bench.need("setpriv"), bench.need("socat")
    _, spec = next(pods())
    group = str(spec["securityContext"]["fsGroup"])
    sidecar, worker = (str(container["securityContext"]["runAsUser"]) for container in containers(spec))
    os.chmod(here.folder, 0o755)
    folder = here.path("shared")
    os.mkdir(folder)
    os.chown(folder, 0, int(group))
    os.chmod(folder, 0o2777)
    program = here.path("lock-keeper")
    shutil.copy(bench.LOCK_KEEPER, program)
    path = os.path.join(folder, "lock-keeper.sock")

    def as_user(user, groups):
        return [setpriv, f"--reuid={user}", f"--regid={user}", groups, "--no-new-privs", "--bounding-set=-all"]

    redis = here.redis()
    here.start([*as_user(sidecar, f"--groups={group}"), program, "--socket", path, "--redis", redis.url],
               stderr=subprocess.DEVNULL)
    here.until("the socket", lambda: os.path.exists(path) and os.stat(path).st_mode & 0o777 == 0o660)

    def ping(groups):
        return bench.run(*as_user(worker, groups), socat, "-t", "20", "STDIO", f"UNIX-CONNECT:{path}",
                         input='{"op":"ping"}\n')

    assert ping(f"--groups={group}").stdout.startswith('{"ok":true,')
    assert "Permission denied" in ping("--clear-groups").stdout


# ---- The Containerfile ----

def instructions():
    text = re.sub(r"^#.*\n", "", bench.read("Containerfile"), flags=re.M).replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_in_two_stages_from_debian(_):
    bases = [words for name, words in instructions() if name == "FROM"]
    assert bases == ["debian:13-slim AS build", "debian:13-slim"], bases


def test_the_image_runs_as_nobody_and_tells_its_health(_):
    last = {}
    for name, words in instructions():
        last[name] = words
    user, _, group = last["USER"].partition(":")
    _, spec = next(pods())
    assert int(user) == spec["initContainers"][-1]["securityContext"]["runAsUser"]
    assert int(group) == spec["securityContext"]["fsGroup"]
    assert last["HEALTHCHECK"].endswith('CMD ["lockctl", "ping"]')
    assert last["ENTRYPOINT"] == '["lock-keeper"]'


def test_the_images_options_are_the_builds(_):
    text = "\n".join(words for _, words in instructions())
    known = set(re.findall(r"^option\('(\w+)'", bench.read("meson_options.txt"), re.M)) | {"b_lto"}
    used = re.findall(r"-D(\w+)=", text)
    assert used and set(used) <= known, used


if __name__ == "__main__":
    bench.main(globals())
