"""Artifacts on a device over SSH, against a real OpenSSH server, with real faults: cut connections, a full disk, killed processes, wrong keys."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.ssh import SshHost, connect, parse_target
from firmware_bridge.ssh_upload import upload
from sdk.artifact import Artifact
from sdk.errors import DeviceError, LinkError, UsageError, VerificationFailed, VersionMismatch
from sdk.remote import RemoteSession, open_remote, package_of
from targets.device import load_device
from tests.linux_artifacts import onnx_bundle, reference, spoil
from tests.ssh_server import SshServer, keygen, needs_sshd, ssh_server

pytest.importorskip("paramiko", reason="needs paramiko: pip install 'embarq[ssh]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytestmark = needs_sshd()

DATA = np.random.default_rng(1).bytes(3 << 20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def server(running: SshServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SshServer:
    """The server, and a device folder of this test alone."""
    use_home(monkeypatch, running.home)
    running.folder = tmp_path / "device" / "tiny"
    running.folder.parent.mkdir()
    return running


def use_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Client's configuration and keys come from `home` alone."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def artifact(made: tuple[dict, dict] | None = None, **changes: object) -> Artifact:
    return Artifact(*(made or onnx_bundle(**changes)), load_device("rpi-4b"))


def flash(server: SshServer, wanted: Artifact, **options: object) -> RemoteSession:
    return open_remote(wanted, server.target(python=sys.executable), **options)


def host(server: SshServer) -> SshHost:
    return connect(parse_target(server.target()))


def left_of(server: SshServer) -> dict[str, object]:
    """What is on the device."""
    names = {link: os.readlink(server.folder / link).removeprefix("versions/") for link in ("current", "previous") if (server.folder / link).is_symlink()}
    listed = {kind: sorted(os.listdir(server.folder / kind)) for kind in ("versions", "incoming") if (server.folder / kind).is_dir()}
    return {**names, **listed}


def test_an_artifact_is_proved_run_and_measured_on_the_device(server):
    wanted, said = artifact(), []
    with flash(server, wanted, progress=said.append) as session:
        assert session.verify().ok
        x = np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(session.run(x), reference(wanted.files["payload/model.onnx"], [x])[0], rtol=1e-4, atol=1e-5)
        assert [row.op for row in session.profile().rows].count("Conv") == 1
        assert len(session.bench(repeats=7).ms) == 7
        assert session.health()["peak_rss_bytes"] > 10 << 20
        with pytest.raises(UsageError, match=r"takes \[1, 3, 8, 8\]"):
            session.run(x[:, :2])
    version = package_of(wanted).id
    assert left_of(server) == {"current": version, "versions": [version], "incoming": []}
    assert any("sent 100 %" in line for line in said)


def test_flashing_the_same_again_sends_nothing(server):
    flash(server, artifact()).close()
    said: list[str] = []
    flash(server, artifact(), progress=said.append).close()
    assert not [line for line in said if "sent" in line]


def test_the_last_two_are_kept_and_one_can_go_back(server):
    made = [artifact(seed=seed) for seed in range(3)]
    ids = [package_of(a).id for a in made]
    for one in made[:2]:
        flash(server, one).close()
    with flash(server, made[2]) as session:
        assert left_of(server) == {"current": ids[2], "previous": ids[1], "versions": sorted(ids[1:]), "incoming": []}
        assert session.roll_back() == ids[1]
    assert left_of(server)["current"] == ids[1]


def test_a_trial_leaves_the_device_as_it_was(server):
    good = artifact()
    flash(server, good).close()
    before = left_of(server)
    with flash(server, artifact(seed=1), verify=False, activate=False) as session:
        assert len(session.bench(repeats=3).ms) == 3
        assert left_of(server)["current"] == package_of(good).id
    assert left_of(server) == before
    flash(server, good, activate=False).close()
    assert left_of(server) == before, "the artifact in use is not taken away after a trial of the same"


def test_a_failed_proof_leaves_the_artifact_before(server):
    good, bad = artifact(), artifact(spoil(onnx_bundle(seed=1)))
    flash(server, good).close()
    with pytest.raises(VerificationFailed, match=f"output y differs by .*vector 1; .* still has the artifact before \\({package_of(good).id}\\)"):
        flash(server, bad)
    assert left_of(server) == {"current": package_of(good).id, "versions": [package_of(good).id], "incoming": []}


def test_a_proof_that_fails_after_the_switch_goes_back(server):
    good, bad = artifact(), artifact(spoil(onnx_bundle(seed=1)))
    flash(server, good).close()
    flash(server, bad, verify=False).close()
    assert left_of(server)["current"] == package_of(bad).id
    with pytest.raises(VerificationFailed, match="still has the artifact before"):
        flash(server, bad)
    assert left_of(server) == {"current": package_of(good).id, "versions": [package_of(good).id], "incoming": []}


def test_the_first_artifact_of_a_device_that_fails_leaves_nothing(server):
    with pytest.raises(VerificationFailed, match="holds no artifact now"):
        flash(server, artifact(spoil(onnx_bundle())))
    assert left_of(server) == {"versions": [], "incoming": []}


READER = """import os, sys
seen = set()
print("on", flush=True)
while not os.path.exists(sys.argv[2]):
    seen.add(os.readlink(sys.argv[1]))
    os.stat(sys.argv[1] + "/manifest.json")
print(len(seen))
"""


def test_the_current_link_names_a_whole_artifact_at_every_moment(server):
    """A reader in a tight loop, while two artifacts are switched to and fro, never finds the link absent or half an artifact behind it."""
    first, second = artifact(), artifact(seed=1)
    flash(server, first).close()
    stop = server.root / f"stop-{time.monotonic_ns()}"
    command = [sys.executable, "-c", READER, str(server.folder / "current"), str(stop)]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None and watcher.stdout.readline() == "on\n"
    with flash(server, second) as session:
        for _ in range(3):
            session.roll_back()
    stop.touch()
    out, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and out.split() == ["2"]


def test_a_connection_cut_while_uploading_goes_on_where_it_stopped(server):
    wanted = artifact(padding_bytes=6 << 20)
    part = server.folder / "incoming" / f"{package_of(wanted).id}.tar.part"

    def cut(line: str) -> None:
        if line.startswith("sent ") and int(line.split()[1]) >= 50:
            wait_for(lambda: part.stat().st_size >= 2 << 20)  # what the server has in its buffers is lost with it
            server.cut()

    with pytest.raises(LinkError, match=r"broke while writing a file; run the same command again"):
        flash(server, wanted, progress=cut)
    settled(part)
    arrived = part.stat().st_size
    assert 2 << 20 <= arrived < len(package_of(wanted).archive)
    said: list[str] = []
    flash(server, wanted, progress=said.append).close()
    first = next(line for line in said if line.startswith("sent"))
    assert int(first.split()[1]) >= 100 * arrived // len(package_of(wanted).archive)
    assert left_of(server)["incoming"] == []


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("what was waited for did not happen in 30 s")


def settled(path: Path) -> None:
    """Wait until nobody writes `path` any more: what was in the pipes when the connection broke is still written."""
    sizes = [-1]
    while sizes[-1] != (size := path.stat().st_size):
        sizes.append(size)
        time.sleep(0.2)


def test_a_part_of_something_else_is_not_continued(server):
    path = server.folder.parent / "file"
    Path(f"{path}.part").write_bytes(b"\0" * 1000)
    with host(server) as there:
        assert upload(there, DATA, str(path)) == len(DATA)
        assert upload(there, DATA, str(path)) == 0
    assert path.read_bytes() == DATA and not Path(f"{path}.part").exists()


def test_only_the_missing_half_is_sent(server):
    path = server.folder.parent / "file"
    Path(f"{path}.part").write_bytes(DATA[: 2 << 20])
    with host(server) as there:
        assert upload(there, DATA, str(path)) == 1 << 20
    assert path.read_bytes() == DATA


def test_a_killed_upload_command_is_told(server):
    def kill(_: str) -> None:
        for pid in children_named("cat", str(server.folder.parent)):
            os.kill(pid, signal.SIGKILL)

    with host(server) as there, pytest.raises(LinkError, match="was stopped there; run the same command again"):
        upload(there, DATA, str(server.folder.parent / "file"), kill)


def children_named(command: str, argument: str) -> list[int]:
    """Processes that run `command` and have a file below `argument` open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == command and any(argument in os.readlink(fd) for fd in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def small_disk(server, tmp_path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a small tmpfs, as root: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_too_small_is_told_before_anything_is_sent(server, small_disk):
    server.folder = small_disk / "tiny"
    said: list[str] = []
    with pytest.raises(DeviceError, match=r"needs [\d,]+ bytes under .* and [\d,]+ are free; delete something there"):
        flash(server, artifact(padding_bytes=3 << 20), progress=said.append)
    assert not [line for line in said if "sent" in line]
    assert left_of(server) == {"versions": [], "incoming": []}


def test_a_disk_that_fills_while_sending_is_told_and_freed(server, small_disk):
    server.folder = small_disk / "tiny"

    def fill(line: str) -> None:
        if line.startswith("sent "):
            with (small_disk / "other").open("ab") as other:
                other.truncate(0)
                while other_fits(other):
                    pass

    with pytest.raises(DeviceError, match="and the disk is full; delete something there"):
        flash(server, artifact(padding_bytes=2 << 20), progress=fill)
    (small_disk / "other").unlink()
    assert left_of(server) == {"versions": [], "incoming": []}
    flash(server, artifact(padding_bytes=2 << 20)).close()


def other_fits(stream: object) -> bool:
    try:
        return os.write(stream.fileno(), bytes(1 << 16)) > 0
    except OSError:
        return False


def test_a_limit_of_file_sizes_is_told_like_a_full_disk(tmp_path, monkeypatch):
    limited = "ForceCommand trap '' XFSZ; ulimit -f 2048; eval \"$SSH_ORIGINAL_COMMAND\""
    with ssh_server(tmp_path / "limited", limited) as server:
        use_home(monkeypatch, server.home)
        with host(server) as there, pytest.raises(DeviceError, match="the disk is full"):
            upload(there, DATA + DATA, str(server.folder / "file"))
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20
        assert os.listdir(server.folder) == []


def test_a_killed_runner_is_told(server):
    with flash(server, artifact()) as session:
        os.kill(session.info()["pid"], signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"the runner on 127\.0\.0\.1:\d+ was killed.*if memory is short"):
            session.run(session.artifact.golden.inputs[0][0])


def test_a_runner_killed_while_proving_leaves_the_artifact_before(server):
    good, new = artifact(), artifact(seed=1)
    flash(server, good).close()

    def kill(line: str) -> None:
        if line.startswith("vector 1"):
            for pid in children_named_runner(server):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeviceError, match=r"was killed.*still has the artifact before"):
        flash(server, new, progress=kill)
    assert left_of(server) == {"current": package_of(good).id, "versions": [package_of(good).id], "incoming": []}


def children_named_runner(server: SshServer) -> list[int]:
    lines = {int(p.parent.name): p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()}
    return [pid for pid, line in lines.items() if b"\0serve\0" in line and str(server.folder).encode() in line and b"python" in line.split(b"\0")[0]]


def test_a_connection_cut_while_running_is_told(server):
    with flash(server, artifact()) as session:
        assert server.cut() >= 1
        with pytest.raises(LinkError, match=r"was lost|is gone"):
            session.run(session.artifact.golden.inputs[0][0])


REFUSED = {
    "another architecture": ({"machine": "aarch64" if os.uname().machine != "aarch64" else "x86_64"}, DeviceError, r"was made for \w+ and this machine is \w+"),
    "a newer engine": ({"requires": {"onnxruntime": "99.1"}}, VersionMismatch, r"needs onnxruntime 99\.1 or newer and [\d.]+ is installed; there: .*pip"),
    "an engine that is not there": (
        {"requires": {"no-such-engine": "1.0"}}, DeviceError, r"needs no-such-engine==1\.0, not installed for .*pip install no-such-engine==1\.0",
    ),
    "a newer Python": ({"requires": {"python": "3.99"}}, DeviceError, r"needs Python 3\.99 and this is 3\.\d+"),
    "an engine of another release": ({"backend": "abacus"}, UsageError, r"for the engine 'abacus' and this runner has onnx, litert"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_device_cannot_run_is_refused_before_it_is_sent(server, name):
    changes, kind, sentence = REFUSED[name]
    said: list[str] = []
    with pytest.raises(kind, match=sentence):
        flash(server, artifact(**changes), progress=said.append)
    assert left_of(server) == {"versions": [], "incoming": []}
    assert not [line for line in said if "sent" in line]


def script(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def test_python_that_is_missing_or_too_old_is_told(server, tmp_path):
    with pytest.raises(DeviceError, match=r"has no /no/python; install it .*\?python="):
        open_remote(artifact(), server.target(python="/no/python"))
    old = script(tmp_path / "python3.6", "echo 3.6")
    with pytest.raises(DeviceError, match=r"is Python 3\.6 and the runner needs 3\.9 or newer"):
        open_remote(artifact(), server.target(python=str(old)))
    assert not server.folder.exists()


def test_python_without_numpy_is_told_with_the_pip_line(server, tmp_path):
    bare = script(tmp_path / "bare", f'exec {sys.executable} -S -E "$@"')
    with pytest.raises(DeviceError, match=r"needs numpy.*not installed for .*; there: .* -m pip install numpy"):
        open_remote(artifact(), server.target(python=str(bare)))


def test_an_unknown_host_is_refused_and_not_added(server, monkeypatch, tmp_path):
    (tmp_path / ".ssh").mkdir()
    use_home(monkeypatch, tmp_path)
    sentence = rf"\[127\.0\.0\.1\]:{server.port} is not in known_hosts; its ssh-ed25519 key is SHA256:\S+: .*ssh-keyscan -p {server.port} 127\.0\.0\.1 >>"
    with pytest.raises(LinkError, match=sentence) as caught:
        host(server)
    shown = subprocess.run(["ssh-keygen", "-lf", str(server.root / "host_key.pub")], capture_output=True, text=True, check=True).stdout.split()[1]
    assert shown in str(caught.value)
    assert os.listdir(tmp_path / ".ssh") == []


def test_a_changed_host_key_is_refused(server):
    known = server.home / ".ssh/known_hosts"
    before = known.read_text()
    try:
        server.change_host_key()
        sentence = r"host key of \[127.*\]:\d+ is SHA256:\S+ and known_hosts says SHA256:\S+: someone may be in between.*ssh-keygen -R"
        with pytest.raises(LinkError, match=sentence):
            host(server)
    finally:
        known.write_text(before)


def stranger(server: SshServer, monkeypatch: pytest.MonkeyPatch, home: Path, passphrase: str = "") -> Path:
    """A home that knows the host and has a key which the server does not know; the key."""
    (home / ".ssh").mkdir()
    (home / ".ssh/known_hosts").write_text((server.home / ".ssh/known_hosts").read_text())
    use_home(monkeypatch, home)
    return keygen(home / ".ssh/id_ed25519", passphrase)


def test_a_refused_key_is_told(server, monkeypatch, tmp_path):
    stranger(server, monkeypatch, tmp_path)
    with pytest.raises(LinkError, match=rf"accepts none of the keys .* for user {server.user}; put your key there with: ssh-copy-id -p {server.port}"):
        host(server)


def test_without_any_key_the_same_is_told(server, monkeypatch, tmp_path):
    stranger(server, monkeypatch, tmp_path).unlink()
    with pytest.raises(LinkError, match="accepts none of the keys"):
        host(server)


def test_a_password_is_asked_for_and_never_repeated(server, monkeypatch, tmp_path, caplog):
    stranger(server, monkeypatch, tmp_path)
    asked = []

    def ask(what: str) -> str:
        asked.append(what)
        return "correct horse"

    with caplog.at_level("DEBUG"), pytest.raises(LinkError, match="accepts neither a key nor the password") as caught:
        connect(parse_target(server.target()), ask)
    assert asked == [f"password of {server.user}@127.0.0.1"]
    assert "correct horse" not in caplog.text + str(caught.value) and caught.value.__cause__ is None


def test_a_key_with_a_passphrase_is_opened_with_it(server, monkeypatch, tmp_path):
    key = stranger(server, monkeypatch, tmp_path, passphrase="secret words")
    with (server.root / "authorized_keys").open("a") as accepted:
        accepted.write(key.with_suffix(".pub").read_text())
    with connect(parse_target(server.target()), lambda what: "secret words") as there:
        assert there.run("echo yes").out == "yes\n"
    with pytest.raises(LinkError, match="accepts none of the keys"):
        host(server)


def test_the_users_ssh_config_is_followed(server, monkeypatch, tmp_path):
    key = keygen(tmp_path / "elsewhere")
    with (server.root / "authorized_keys").open("a") as accepted:
        accepted.write(key.with_suffix(".pub").read_text())
    (tmp_path / "hosts").write_text((server.home / ".ssh/known_hosts").read_text())
    (tmp_path / ".ssh").mkdir()
    lines = f"HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n IdentityFile {key}\n IdentitiesOnly yes\n UserKnownHostsFile {tmp_path / 'hosts'}"
    (tmp_path / ".ssh/config").write_text(f"Host kitchen\n {lines}\n")
    use_home(monkeypatch, tmp_path)
    with connect(parse_target("ssh://kitchen")) as there:
        assert there.run("echo yes").out == "yes\n"


def test_a_device_that_is_not_there_is_told(server):
    with pytest.raises(LinkError, match=r"cannot be reached .*is the device on, and sshd running"):
        connect(parse_target("ssh://127.0.0.1:1"))
    with pytest.raises(LinkError, match=r"is not known|cannot be reached"):
        connect(parse_target("ssh://no-such-host.invalid"))


def test_commands_that_fail_or_talk_much_are_read_to_the_end(server):
    with host(server) as there:
        done = there.run("head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2; exit 3")
        assert (done.code, len(done.out), len(done.err)) == (3, 3_000_000, 3_000_000)
        assert there.run("kill -9 $$").code is None
        with pytest.raises(LinkError, match="took longer than 0 s"):
            there.run("sleep 30", timeout_s=0.2)


ADDRESSES = {
    "ssh://pi:secret@host": "a password does not belong into an address",
    "ssh://pi@host:99999": "not a number up to 65535",
    "ssh://": "is not an SSH address",
    "ssh://host/x?pyton=3": "'pyton' is not known",
    "ssh://-oProxyCommand=x/": "holds characters",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_wrong_addresses_are_refused(text):
    with pytest.raises(UsageError, match=ADDRESSES[text]) as caught:
        parse_target(text)
    assert "secret" not in str(caught.value)


def test_addresses():
    found = parse_target("ssh://pi@kitchen:2222/srv/models/kws?python=/opt/bin/python3&engine=tflite-runtime")
    assert (found.user, found.host, found.port, found.path, found.python, found.engine) == (
        "pi", "kitchen", 2222, "/srv/models/kws", "/opt/bin/python3", "tflite-runtime",
    )  # fmt: skip
    assert parse_target("ssh://kitchen").path is None
    assert parse_target("ssh://kitchen/~/models").path == "models"
