"""The native engine: a model compiled to a shared library for this kind of machine, called through ctypes. Needs numpy alone."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import machine
from .engines import Signature, check_options, first_line
from .errors import BadRequest, EngineRefused, MachineRefused, VersionRefused

FORMAT, VERSION, ABI = "embarq-native", 1, 1
#: embarq_dtype of embarq.h
DTYPES = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")
ALIGNMENT = 64
#: An older machine's library runs on a newer one too.
INSTEAD = {"armv7": ("armv7", "armv6")}


class _Tensor(ctypes.Structure):
    """embarq_tensor of embarq.h."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("ref", ctypes.c_uint32), ("size_bytes", ctypes.c_uint32), ("dtype", ctypes.c_uint8), ("rank", ctypes.c_uint8),
        ("shape", ctypes.c_int32 * 6), ("scale", ctypes.c_float), ("zero_point", ctypes.c_int32),
    ]  # fmt: skip


class _Model(ctypes.Structure):
    """embarq_model of embarq.h."""

    _fields_ = [
        ("abi", ctypes.c_uint32), ("name", ctypes.c_char_p), ("id", ctypes.c_void_p), ("arena_bytes", ctypes.c_uint32 * 4),
        ("inputs", ctypes.POINTER(_Tensor)), ("outputs", ctypes.POINTER(_Tensor)), ("steps", ctypes.c_void_p),
        ("input_count", ctypes.c_uint16), ("output_count", ctypes.c_uint16), ("step_count", ctypes.c_uint16),
    ]  # fmt: skip


class NativeEngine:
    """The library that `native.json` names for this machine. It runs on one thread and has no options."""

    name = "native"
    why_no_profile = ""

    def __init__(self, path: str, threads: int, options: Mapping[str, Any]) -> None:
        check_options("native", options, ())
        if threads != 1:
            raise BadRequest(f"the native engine runs on one thread and {threads} were asked for; give 1")
        index = _index(Path(path))
        self.version = f"abi {ABI}"
        self._steps, self._library = index.get("steps") or [], _load(_library_of(Path(path), index))
        self._model = self._library.embarq_native_model().contents
        if self._model.abi != ABI:
            raise VersionRefused(f"{path} has ABI {self._model.abi} and this runner reads {ABI}; use its own embarq's runner")
        self._memory, self._arena = _aligned(int(self._model.arena_bytes[0]))
        self.inputs, self._in = self._ports(self._model.inputs, self._model.input_count, index.get("inputs") or [])
        self.outputs, self._out = self._ports(self._model.outputs, self._model.output_count, index.get("outputs") or [])

    def _ports(self, tensors: Any, count: int, names: list[str]) -> tuple[list[Signature], list[np.ndarray]]:
        """(signatures, their bytes in the arena as arrays) of the inputs or the outputs."""
        signatures, views = [], []
        for index in range(count):
            tensor = tensors[index]
            shape, dtype = tuple(tensor.shape[: tensor.rank]), DTYPES[tensor.dtype]
            start = tensor.ref & 0x0FFFFFFF
            views.append(self._arena[start : start + tensor.size_bytes].view(dtype).reshape(shape))
            signatures.append((names[index] if index < len(names) else tensor.name.decode(), shape, dtype))
        return signatures, views

    def _fill(self, arrays: list[np.ndarray]) -> None:
        for view, array in zip(self._in, arrays):
            view[...] = array

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference."""
        self._fill(arrays)
        self._library.embarq_native_run(self._arena.ctypes.data, 0, self._model.step_count)
        return [view.copy() for view in self._out]

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean time of every step, each called alone; the first inference warms up and is not counted."""
        count, address, call = int(self._model.step_count), self._arena.ctypes.data, self._library.embarq_native_run
        spent = [0] * count
        for number in range(repeats + 1):
            self._fill(arrays)
            for step in range(count):
                start = time.perf_counter_ns()
                call(address, step, step + 1)
                spent[step] += time.perf_counter_ns() - start if number else 0
        named = self._steps if len(self._steps) == count else [{"name": str(i), "op": ""} for i in range(count)]
        return [{"name": step["name"], "op": step["op"], "ms": ns / repeats / 1e6} for step, ns in zip(named, spent)]

    def close(self) -> None:
        """Give the arena back; the library stays loaded, for nothing says that no other engine uses it."""
        self._in, self._out = [], []
        self._memory = self._arena = np.zeros(0, np.uint8)


def _index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineRefused(f"{path} cannot be read ({first_line(error)}); copy the artifact again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("libraries"), dict):
        raise EngineRefused(f"{path} is not the index of a native model; copy the artifact again")
    if index.get("version") != VERSION:
        raise VersionRefused(f"{path} has version {index.get('version')!r} and this runner reads {VERSION}; use its own embarq's runner")
    return index


def _library_of(path: Path, index: Mapping[str, Any]) -> Path:
    """The library for this machine, beside the index. Raises `MachineRefused` where there is none."""
    here = machine()
    for name in INSTEAD.get(here, (here,)):
        found = index["libraries"].get(name)
        if found is not None:
            if Path(str(found)).name != found:
                raise EngineRefused(f"{path} names {found!r}, which is not beside it; copy the artifact again")
            return path.parent / found
    raise MachineRefused(f"{path} has libraries for {', '.join(index['libraries'])} and this machine is {here}; choose an engine that has a package for it")


def _load(path: Path) -> Any:
    try:
        library = ctypes.CDLL(str(path.resolve()))
        library.embarq_native_model.restype = ctypes.POINTER(_Model)
        library.embarq_native_model.argtypes = []
        library.embarq_native_run.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
        library.embarq_native_run.restype = None
    except (OSError, AttributeError) as error:
        raise EngineRefused(f"{path} cannot be loaded ({first_line(error)}); compile it again, or check that its folder may hold programs (noexec)") from error
    return library


def _aligned(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(the memory, `size` zeroed bytes of it that start at a multiple of 64)."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory, memory[start : start + size]
