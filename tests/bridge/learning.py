"""The learner of learner.c in numpy, on the C half compiled for this computer, and on emulated boards."""

from __future__ import annotations

import ctypes
import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from firmware_bridge.emulator import EmulatedBoard, EmulatorLink
from firmware_bridge.session import BoardSession
from targets.device import load_device
from tests.bridge.board import DEVICE, HERE, INCLUDES, WARNINGS, LoopbackLink, host_compiler
from tests.bridge.firmware import learner

INPUTS, CLASSES, SCALE = 40, 3, 0.03125
ID = bytes([9, 8, 7, 6]) + bytes(28)


class Reference:
    """What the learner computes, in float64."""

    def __init__(self) -> None:
        self.weight, self.bias, self.count = np.zeros((CLASSES, INPUTS)), np.array([0.25, -0.5, 0.125]), 0.0
        self.weight[0, :3] = 0.5, -0.25, 0.125

    def step(self, x: np.ndarray, label: int, rate: float) -> tuple[float, int]:
        """x: [40] int8. The loss and the class found before the update."""
        real = x.astype(np.float64) * SCALE
        scores = self.weight @ real + self.bias
        odds = np.exp(scores - scores.max())
        loss, predicted = float(np.log(odds.sum()) + scores.max() - scores[label]), int(scores.argmax())
        gradient = odds / odds.sum() - np.eye(CLASSES)[label]
        self.weight -= rate * np.outer(gradient, real)
        self.bias -= rate * gradient
        self.count += 1
        return loss, predicted

    def values(self) -> list[np.ndarray]:
        return [self.weight, self.bias, np.array([self.count])]


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs int8 [n, 40] of three classes that a line can tell apart, and labels [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(5).normal(0, 0.6, (CLASSES, INPUTS))
    return np.clip(np.rint((centres[labels] + rng.normal(0, 0.5, (count, INPUTS))) / SCALE), -128, 127).astype(np.int8), labels


def values(board: BoardSession) -> list[np.ndarray]:
    """Weights, bias and counter on the board."""
    return [np.frombuffer(board.read_variable(i), "<f4") for i in range(3)]


def emulated(device_name: str, compiler: str = "zig", elf: Path | None = None) -> tuple[EmulatedBoard, BoardSession]:
    """A board that learns, and a session with it."""
    board = EmulatedBoard(load_device(device_name).as_emulated(), elf or learner(device_name, compiler))
    return board, BoardSession(EmulatorLink(board))


@functools.cache
def library() -> ctypes.CDLL:
    """The C half with the learner and flash of its own, for this computer."""
    folder = Path(tempfile.mkdtemp(prefix="embarq-learning-"))
    sources = [HERE / "learning_board.c", HERE / "learner.c", *sorted(DEVICE.glob("*.c"))]
    command = [*host_compiler(), *WARNINGS, "-O1", "-ffp-contract=off", "-fPIC", "-shared", *INCLUDES, *map(str, sources), "-o", str(folder / "board.so")]
    subprocess.run(command, check=True, capture_output=True)
    board = ctypes.CDLL(str(folder / "board.so"))
    board.board_feed.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    board.board_take.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    board.board_take.restype = ctypes.c_size_t
    board.board_cut.argtypes = (ctypes.c_int, ctypes.c_uint32)
    board.flash_bytes.argtypes = (ctypes.c_uint32,)
    board.flash_bytes.restype = ctypes.POINTER(ctypes.c_uint8)
    shutil.rmtree(folder, ignore_errors=True)
    return board


class LearnerLink(LoopbackLink):
    """The learner in this process. `start` is its power coming back, `cut` its going."""

    name = "learner"

    def __init__(self, buffer_size: int = 512, unit: int = 4, slot_bytes: int = 1024, abi: int = 1) -> None:
        self.board = library()
        self.sizes = (buffer_size, unit, slot_bytes, abi)
        self.to_board = self.to_host = lambda data: data
        self._ready = bytearray()
        self.closed, self.frames = False, 0
        self.board.flash_clear()
        self.start()

    def start(self) -> None:
        self._ready.clear()
        self.board.board_start(*self.sizes)

    def cut(self, operations: int, noise: int = 1) -> None:
        """The power goes in the middle of the operation after so many; -1: it stays."""
        self.board.board_cut(operations, noise)

    @property
    def operations(self) -> int:
        """Erases and programmed units since the start."""
        return int(self.board.flash_operations())

    @property
    def dead(self) -> bool:
        return bool(self.board.board_is_off())

    def flash(self, slot: int, size: int) -> bytes:
        return ctypes.string_at(self.board.flash_bytes(slot), size)

    def spoil(self, slot: int, at: int) -> None:
        self.board.flash_bytes(slot)[at] ^= 1


def hyper(rate: float) -> bytes:
    return struct.pack("<4f", rate, 0, 0, 0)
