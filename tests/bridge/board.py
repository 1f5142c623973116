"""The compiled loopback board and the ways to reach it: directly, through a bad line, over a socket, over a pty."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
DEVICE = ROOT / "firmware_bridge" / "device"
INCLUDES = (f"-I{ROOT / 'sdk' / 'runtime' / 'include'}", f"-I{DEVICE}")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SIZE, STEPS = 700, 20


def sources() -> list[str]:
    return [str(HERE / "loopback.c"), str(HERE / "model.c"), *map(str, sorted(DEVICE.glob("*.c")))]


def host_compiler() -> list[str]:
    """A compiler for this computer: the system's, else the one in the ziglang wheel."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found:
        return [found]
    pytest.importorskip("ziglang", reason="needs a C compiler for this computer: gcc, cc or the ziglang wheel")
    return [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]


@cache
def library() -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="embarq-loopback-"))
    output = folder / "loopback.so"
    command = [*host_compiler(), *WARNINGS, "-O1", "-fPIC", "-shared", *INCLUDES, *sources(), "-o", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    board = ctypes.CDLL(str(output))
    board.board_feed.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    board.board_take.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    board.board_take.restype = ctypes.c_size_t
    board.board_start.argtypes = (ctypes.c_uint32, ctypes.c_uint32, ctypes.c_int)
    shutil.rmtree(folder, ignore_errors=True)  # it stays mapped
    return board


class LoopbackLink:
    """The board in this process: answers stand ready when `write` returns, so nothing here waits.

    `to_board` and `to_host` may spoil what passes: they get a write, or one frame's bytes, and return what arrives.
    """

    name = "loopback"
    mend = "is the loopback board started?"

    def __init__(self, buffer_size: int = 512, abi: int = 1, small: bool = False) -> None:
        self.board = library()
        self.board.board_start(buffer_size, abi, int(small))
        self.to_board: Callable[[bytes], bytes] = lambda data: data
        self.to_host: Callable[[bytes], bytes] = lambda data: data
        self._ready = bytearray()
        self.closed = False
        self.frames = 0

    def write(self, data: bytes) -> None:
        self.frames += 1
        arrived = self.to_board(data)
        self.board.board_feed(arrived, len(arrived))
        answer = self.take()
        if answer:
            self._ready += self.to_host(answer)

    def take(self) -> bytes:
        buffer = ctypes.create_string_buffer(1 << 20)
        count = self.board.board_take(buffer, len(buffer))
        return buffer.raw[:count]

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        data, self._ready = bytes(self._ready[:max_bytes]), self._ready[max_bytes:]
        return data

    def close(self) -> None:
        self.closed = True


def expected(image: bytes, bias: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """What the loopback model computes: its two outputs and what each step writes."""
    multiply = list(range(3, 41, 2))
    add = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 12, 13, 14, 15, 1, 17, 18, 19]
    layers, x = [], image
    for m, a in zip(multiply, add, strict=True):
        x = bytes((v * m + a + (i & 3)) % 256 for i, v in enumerate(x))
        layers.append(x)
    scores = bytes((x[i] + bias[i]) % 256 for i in range(8))
    return x, scores, [*layers, scores]


class SocketServer:
    """Serves `answer(data) -> bytes` on a TCP port of this computer, to one client after the other."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"socket://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        try:
            while data := client.recv(4096):
                answer = self._answer(data)
                if answer is None:
                    return
                client.sendall(answer)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()


class Pty:
    """A pseudo-terminal whose far end is `answer(data) -> bytes`; `path` opens like a serial port."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        import tty

        self._answer = answer
        self._far, self._near = os.openpty()
        tty.setraw(self._far)
        tty.setraw(self._near)
        self.path = os.ttyname(self._near)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while data := os.read(self._far, 4096):
                os.write(self._far, self._answer(data))
        except OSError:
            return

    def close(self) -> None:
        os.close(self._near)
        os.close(self._far)


def answer_of(link: LoopbackLink) -> Callable[[bytes], bytes]:
    """The loopback board as a function from bytes received to bytes sent."""

    def answer(data: bytes) -> bytes:
        link.board.board_feed(data, len(data))
        return link.take()

    return answer
