"""Firmware under QEMU, the second opinion on the emulated board: its UART as a byte link, its time counted in instructions.

With `-icount shift=N` every executed instruction is 2^N ns of virtual time, so a timer of the machine counts instructions.
The UART is a TCP socket and not a PTY: through a PTY the emulated UART holds a frame's last byte until further host input.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from targets.device import Device, load_device

START_S = 30.0


class Qemu:
    """A running machine, used as a link."""

    def __init__(self, device: Device | str, elf: Path, icount: bool = True) -> None:
        device = load_device(device)
        machine = device.emulator
        if machine is None or not machine.qemu_machine:
            raise ValueError(f"QEMU has no machine for {device.name}")
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.settimeout(START_S)
        command = ["qemu-system-arm", "-M", machine.qemu_machine, "-display", "none", "-monitor", "stdio", "-kernel", str(elf)]
        command += ["-chardev", f"socket,id=line,host=127.0.0.1,port={port}", "-serial", "chardev:line"]
        command += ["-icount", f"shift={machine.qemu_icount_shift}"] if icount else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            self._line, _ = server.accept()
        except TimeoutError:
            self._process.kill()
            raise RuntimeError(f"QEMU did not start: {self._process.communicate()[1].decode(errors='replace')}") from None
        finally:
            server.close()

    def write(self, data: bytes) -> None:
        """Bytes for the machine's UART."""
        self._line.sendall(data)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte as soon as there is one; b"" when none came in time."""
        self._line.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError, BlockingIOError):  # the latter when timeout_s is 0
            return self._line.recv(max_bytes)
        return b""

    def read_until(self, end: bytes, timeout_s: float = START_S) -> bytes:
        """Everything up to and with `end`. Raises TimeoutError when it does not come."""
        found, limit = b"", time.monotonic() + timeout_s
        while end not in found:
            if time.monotonic() > limit:
                raise TimeoutError(f"QEMU sent {found[-80:]!r} and not {end!r}")
            found += self.read(4096, 1.0)
        return found

    def memory(self, address: int, words: int) -> tuple[int, ...]:
        """Words of the machine's memory, while it runs on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"xp /{words}xw {address:#x}\n".encode())
        self._process.stdin.flush()
        found: list[int] = []
        while len(found) < words:
            line = self._process.stdout.readline()
            if re.match(rb"[0-9a-f]{8,16}: ", line):
                found += [int(word, 16) for word in line.split()[1:]]
        return tuple(found)

    def close(self) -> None:
        """Ends the machine."""
        self._line.close()
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
