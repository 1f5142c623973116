"""A real OpenSSH server for the tests: on the loopback, with keys and configuration of its own in a folder of the test."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
#: /run/sshd is where a privileged sshd locks itself in; a package's service makes it, and here is no service.
PRIVILEGE_FOLDER = Path("/run/sshd")


def needs_sshd() -> pytest.MarkDecorator:
    """Skips, with the mend, where there is no OpenSSH server."""
    return pytest.mark.skipif(
        not (os.access(SSHD, os.X_OK) and shutil.which("ssh-keygen")), reason="needs sshd and ssh-keygen (apt-get install openssh-server)"
    )


@dataclass
class SshServer:
    """A running server and the client's home that belongs to it. `folder` is where the tests' artifacts go."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]
    home: Path
    folder: Path
    user: str = field(default_factory=getpass.getuser)

    def target(self, path: Path | None = None, **query: str) -> str:
        """The address of a folder on this server."""
        words = "&".join(f"{key}={value}" for key, value in query.items())
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path or self.folder}" + (f"?{words}" if words else "")

    def cut(self) -> int:
        """Kill every connection's server process, as a pulled cable or a reboot would; the listening one stays. How many were killed."""
        victims = [pid for pid in descendants(self.process.pid) if command_of(pid).startswith("sshd")]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return len(victims)

    def change_host_key(self) -> None:
        """What the client knows of this server becomes wrong: the entry gets the client's own key."""
        other = (self.home / ".ssh/id_ed25519.pub").read_text().split()[:2]
        (self.home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{self.port} {' '.join(other)}\n")


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found, todo = [], [pid]
    while todo:
        children = [child for child, parent in parents.items() if parent == todo[-1]]
        todo.pop()
        found += children
        todo += children
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def keygen(path: Path, passphrase: str = "") -> Path:
    """A new ed25519 key pair."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def ssh_server(root: Path, *lines: str) -> Iterator[SshServer]:
    """A server with extra configuration `lines`. Its client's home has a key that it accepts and a known_hosts that names it."""
    home, folder = root / "home", root / "device"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    folder.mkdir()
    host_key, key, port = keygen(root / "host_key"), keygen(home / ".ssh/id_ed25519"), free_port()
    shutil.copy(key.with_suffix(".pub"), root / "authorized_keys")
    public = host_key.with_suffix(".pub").read_text().split()[:2]
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    config = root / "sshd_config"
    settings = (
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {host_key}", f"AuthorizedKeysFile {root / 'authorized_keys'}", "PidFile none", "UsePAM no",
        "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes",
        "SetEnv SHLVL=2",  # Debian's bash reads ~/.bashrc for commands over SSH unless it believes to be inside another shell
        *lines,
    )  # fmt: skip
    config.write_text("\n".join(settings) + "\n")
    if os.geteuid() == 0:
        PRIVILEGE_FOLDER.mkdir(exist_ok=True)
    with (root / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait(process, port, root / "sshd.log")
        yield SshServer(root, port, process, home, folder)
    finally:
        children = descendants(process.pid)
        process.terminate()
        process.wait(timeout=20)
        for pid in children:
            if command_of(pid).startswith("sshd"):
                os.kill(pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            pytest.fail(f"sshd did not start: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"sshd does not listen: {log.read_text()}")
