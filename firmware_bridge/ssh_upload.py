"""Bytes to a file on a device: resumable, compared by hash, in place only when whole.

`cat` and `sha256sum` over the shell, not SFTP: small SSH servers have no SFTP, and `cat` says why it failed (a full disk) where SFTP says "failure".
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from typing import Any

from firmware_bridge import ssh_errors
from firmware_bridge.ssh import PIECE, SshHost
from sdk.errors import LinkError

Progress = Callable[[str], None]
#: Left free on the device beyond what is written: a completely full disk breaks other programs.
SPARE_BYTES = 1 << 20
HASH_TIMEOUT_S = 1800.0


def upload(host: SshHost, data: bytes, path: str, progress: Progress | None = None) -> int:
    """Write `data` to `path` on the device; how many bytes had to be sent.

    What an earlier, broken upload of the same bytes left in `path`.part is kept when its hash is right, and only the rest is sent.
    Raises `LinkError` when the connection breaks (the part stays), `DeviceError` on a full disk (the part is removed).
    """
    quoted, part = shlex.quote(path), shlex.quote(path + ".part")
    if _sha256(host, quoted) == hashlib.sha256(data).hexdigest():
        return 0
    start = _resume_at(host, part, data)
    check_space(host, path, len(data) - start)
    _send(host, part, memoryview(data)[start:], path, start, progress)
    if _sha256(host, part) != hashlib.sha256(data).hexdigest():
        host.run(f"rm -f {part}")
        raise LinkError(f"{path} arrived damaged on {host.name} and was removed there; run the same command again")
    must(host, f"mv -f {part} {quoted}", f"put {path} in place")
    return len(data) - start


def _resume_at(host: SshHost, part: str, data: bytes) -> int:
    """How many bytes of `data` are in the part already; a part of something else is removed."""
    done = host.run(f"wc -c < {part} 2>/dev/null || echo 0")
    size = int(done.out.split()[0]) if done.out.split() and done.out.split()[0].isdigit() else 0
    if 0 < size <= len(data) and _sha256(host, part) == hashlib.sha256(data[:size]).hexdigest():
        return size
    host.run(f"rm -f {part}")
    return 0


def _sha256(host: SshHost, quoted: str) -> str:
    """The file's hash, "" when there is none."""
    done = host.run(f"sha256sum < {quoted} 2>/dev/null", HASH_TIMEOUT_S)
    return done.out.split()[0] if done.code == 0 and done.out.split() else ""


def free_bytes(host: SshHost, folder: str) -> int | None:
    """Free bytes of the file system that holds `folder`; None when the device does not tell."""
    fields = host.run(f"df -Pk {shlex.quote(folder)} 2>/dev/null | tail -n 1").out.split()
    return int(fields[3]) * 1024 if len(fields) >= 6 and fields[3].isdigit() else None


def check_space(host: SshHost, path: str, needed: int) -> None:
    """Raises `DeviceError` when `needed` bytes would not go into the folder of `path`."""
    free = free_bytes(host, path.rpartition("/")[0] or ".")
    if free is not None and free < needed + SPARE_BYTES:
        raise ssh_errors.no_space(host.name, path.rpartition("/")[0], needed + SPARE_BYTES, free)


def _send(host: SshHost, part: str, rest: memoryview, path: str, start: int, progress: Progress | None) -> None:
    """Append `rest` to the part."""
    channel = host.channel(f"cat >> {part}")
    channel.settimeout(60)
    total = start + len(rest)
    try:
        for offset in range(0, len(rest), PIECE):
            channel.sendall(rest[offset : offset + PIECE])
            if progress:
                progress(f"sent {(start + min(offset + PIECE, len(rest))) * 100 // max(total, 1)} % of {total:,} bytes")
        channel.shutdown_write()
    except OSError:
        pass  # the other side's words say more than "socket is closed"
    _check_sent(host, channel, part, path, len(rest))


def _check_sent(host: SshHost, channel: Any, part: str, path: str, size: int) -> None:
    done = host.finish(channel, "writing a file")
    if done.code == 0:
        return
    if ssh_errors.is_no_space(done.err):
        host.run(f"rm -f {part}")  # the bytes that did arrive are what fills the disk
        raise ssh_errors.no_space(host.name, path.rpartition("/")[0], size, None)
    if done.code is None:
        raise LinkError(f"writing {path} on {host.name} was stopped there; run the same command again, it goes on where it stopped")
    raise ssh_errors.command_failed(host.name, f"write {path}", done.err)


def must(host: SshHost, command: str, what: str, timeout_s: float = 120.0, needed: int = 0) -> str:
    """The command's output; raises when it fails, a full disk told apart."""
    done = host.run(command, timeout_s)
    if done.code == 0:
        return done.out
    if ssh_errors.is_no_space(done.err):
        raise ssh_errors.no_space(host.name, "the artifact's folder", needed or SPARE_BYTES, None)
    raise ssh_errors.command_failed(host.name, what, done.err or done.out or f"exit code {done.code}")
