"""Bytes to a file on a device: resumable, compared by hash, in place only when whole.

`cat` and `sha256sum` over the shell, not SFTP: small SSH servers have no SFTP, and `cat` says why it failed (a full disk) where SFTP says "failure".
Few commands, each doing much: starting one may take half a second on a small device.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge import ssh_errors
from firmware_bridge.ssh import PIECE, Done, SshHost
from sdk.errors import LinkError

Progress = Callable[[str], None]
#: Left free on the device beyond what is written: a completely full disk breaks other programs.
SPARE_BYTES = 1 << 20
HASH_TIMEOUT_S = 1800.0
#: What the writing command returns when all bytes came and the hash is another one.
DAMAGED = 99


@dataclass(frozen=True)
class Arrived:
    """What is on the device: the whole file's hash, the part's size and hash ("" without one), free bytes (None: not told)."""

    whole: str
    part_bytes: int
    part: str
    free_bytes: int | None


def arrived(host: SshHost, path: str) -> Arrived:
    """Look at `path` and its part, with one command."""
    file, part, folder = shlex.quote(path), shlex.quote(path + ".part"), shlex.quote(path.rpartition("/")[0] or ".")
    look = f"echo whole $(sha256sum < {file}); echo part $(wc -c < {part}) $(sha256sum < {part}); echo free $(df -Pk {folder} | tail -n 1)"
    lines = dict(line.partition(" ")[::2] for line in host.run(f"{{ {look}; }} 2>/dev/null", HASH_TIMEOUT_S).out.splitlines())
    whole, part_words, free = lines.get("whole", "").split(), lines.get("part", "").split(), lines.get("free", "").split()
    size, digest = (int(part_words[0]), part_words[1]) if len(part_words) > 1 else (0, "")
    return Arrived(whole[0] if whole else "", size, digest, int(free[3]) * 1024 if len(free) > 3 and free[3].isdigit() else None)


def upload(host: SshHost, data: bytes, path: str, progress: Progress | None = None, more_bytes: int = 0) -> int:
    """Write `data` to `path` on the device; how many bytes had to be sent.

    What an earlier, broken upload of the same bytes left in `path`.part is kept when its hash is right, and only the rest is sent.
    more_bytes: free space that is asked for beyond that of the file. Raises `LinkError` when the connection breaks (the part stays),
    `DeviceError` when the disk is or gets full (the part is removed).
    """
    found = arrived(host, path)
    if found.whole == hashlib.sha256(data).hexdigest():
        return 0
    kept = 0 < found.part_bytes <= len(data) and found.part == hashlib.sha256(data[: found.part_bytes]).hexdigest()
    start = found.part_bytes if kept else 0
    needed = len(data) - start + more_bytes + SPARE_BYTES
    if found.free_bytes is not None and found.free_bytes < needed:
        raise ssh_errors.no_space(host.name, path.rpartition("/")[0], needed, found.free_bytes)
    done = _send(host, data, path, start, progress)
    if done.code != 0:
        raise _failed(host, done, path, needed)
    return len(data) - start


def _send(host: SshHost, data: bytes, path: str, start: int, progress: Progress | None) -> Done:
    """Append what is missing to the part and, when it is whole, put it in place.

    A broken connection looks to `cat` like the end of the data: only a part of full size is judged by its hash, a shorter one stays.
    """
    file, part = shlex.quote(path), shlex.quote(path + ".part")
    write = f"cat {'>>' if start else '>'} {part} || exit $?; test $(wc -c < {part}) -ge {len(data)} || exit 1"
    judge = f"sum=$(sha256sum < {part}); test \"${{sum%% *}}\" = {hashlib.sha256(data).hexdigest()} || {{ rm -f {part}; exit {DAMAGED}; }}"
    channel = host.channel(f"{write}; {judge}; mv -f {part} {file}")
    channel.settimeout(60)
    try:
        for offset in range(start, len(data), PIECE):
            channel.sendall(memoryview(data)[offset : offset + PIECE])
            if progress:
                progress(f"sent {min(offset + PIECE, len(data)) * 100 // len(data)} % of {len(data):,} bytes")
        channel.shutdown_write()
    except (OSError, EOFError):
        pass  # the other side's words say more than "socket is closed"
    return host.finish(channel, "writing a file", HASH_TIMEOUT_S)


def _failed(host: SshHost, done: Done, path: str, needed: int) -> Exception:
    if ssh_errors.is_no_space(done.err):
        host.run(f"rm -f {shlex.quote(path + '.part')}")  # the bytes that did arrive are what fills the disk
        return ssh_errors.no_space(host.name, path.rpartition("/")[0], needed, None)
    if done.code == DAMAGED:
        return ssh_errors.damaged(host.name, path)
    if done.code is None or not done.err.strip():
        return ssh_errors.stopped(host.name, path)
    return ssh_errors.command_failed(host.name, f"write {path}", re.sub(r"^sh: \d+: ", "", done.err))


def must(host: SshHost, command: str, what: str, timeout_s: float = 120.0, needed: int = SPARE_BYTES) -> str:
    """The command's output; raises when it fails, a full disk told apart."""
    done = host.run(command, timeout_s)
    if done.code == 0:
        return done.out
    if ssh_errors.is_no_space(done.err):
        raise ssh_errors.no_space(host.name, "the artifact's folder", needed, None)
    if done.code is None:
        raise LinkError(f"{host.name} stopped the command that should {what}; run the same again")
    raise ssh_errors.command_failed(host.name, what, done.err or done.out or f"exit code {done.code}")
