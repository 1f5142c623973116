"""Times of LiteRT's operations through the C library inside its package, whose profiler the Python interface does not reach.

XNNPACK tells whole microseconds, so the shortest operations show as 0. The structures are those of `VERSIONS`; with any other
version nothing is called, for a wrong structure would end the process and not raise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EngineRefused

VERSIONS = ("2.3.0",)
CPU, WRITE = 1, 1  # kLiteRtHwAcceleratorCpu, kLiteRtTensorBufferLockModeWrite
#: Event types: an operator of the interpreter, of a delegate, an inference.
OPERATOR, DELEGATED, INFERENCE = 2, 8, b"LiteRT::Run[buffer registration]"
_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KEEP = _DELETER(lambda _: None)  # option texts are Python's to free
#: LiteRtRankedTensorType is 4 + 4 + 8 * 4 + 8 * 4 bytes; it is only handed on.
_TYPE_BYTES = 512


class _Event(ctypes.Structure):
    """ProfiledEventData of litert_profiler_event.h."""

    _fields_ = [
        ("tag", ctypes.c_char_p), ("type", ctypes.c_int), ("start_us", ctypes.c_uint64), ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_uint64 * 6), ("metadata", ctypes.c_uint64 * 2), ("source", ctypes.c_int),
    ]  # fmt: skip


class _Library:
    """libLiteRt.so; whatever it makes is destroyed by `close`, the last first."""

    def __init__(self) -> None:
        spec = find_spec("ai_edge_litert")
        folders = list(spec.submodule_search_locations or []) if spec else []
        try:
            self._library = ctypes.CDLL(str(Path(folders[0]) / "libLiteRt.so"))
        except (OSError, IndexError) as error:
            raise EngineRefused("the LiteRT package holds no libLiteRt.so, which tells the times; install it again") from error
        self._made: list[tuple[str, ctypes.c_void_p]] = []

    def call(self, name: str, *arguments: Any) -> None:
        """`LiteRt<name>`; raises EngineRefused with LiteRT's number where it fails."""
        code = getattr(self._library, f"LiteRt{name}")(*arguments)
        if code:
            raise EngineRefused(f"LiteRT's {name} failed with status {code} while profiling; run bench for the time of a whole inference")

    def get(self, name: str, *arguments: Any, destroy: str = "") -> ctypes.c_void_p:
        """The handle that `LiteRt<name>` writes to its last argument."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        if destroy:
            self._made.append((destroy, handle))
        return handle

    def close(self) -> None:
        """Give everything back."""
        for kind, handle in reversed(self._made):
            getattr(self._library, f"LiteRtDestroy{kind}")(handle)
        self._made.clear()


def operation_times(path: str, threads: int, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]]:
    """Mean ms of every operation of the `.tflite` over `repeats` inferences, in order of execution: {"name", "op", "ms"}."""
    library = _Library()
    try:
        return means(list(_traced(library, path, threads, arrays, repeats)))
    finally:
        library.close()


def _traced(library: _Library, path: str, threads: int, arrays: list[np.ndarray], repeats: int) -> Iterator[tuple[bytes, int, int]]:
    """(tag, type, elapsed microseconds) of every event; the first inference warms up untraced."""
    environment = library.get("CreateEnvironment", 0, None, destroy="Environment")
    model = library.get("CreateModelFromFile", environment, str(path).encode(), destroy="Model")
    options = library.get("CreateOptions", destroy="Options")
    library.call("SetOptionsHardwareAccelerators", options, CPU)
    texts = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = %d\n" % threads}
    kept = {name: ctypes.create_string_buffer(text) for name, text in texts.items()}
    for name, text in kept.items():
        library.call("AddOpaqueOptions", options, library.get("CreateOpaqueOptions", name, ctypes.cast(text, ctypes.c_void_p), _KEEP))
    compiled = library.get("CreateCompiledModel", environment, model, options, destroy="CompiledModel")
    profiler = library.get("CompiledModelGetProfiler", compiled)
    graph = library.get("GetModelSubgraph", model, ctypes.c_size_t(0))
    inputs, outputs = (_buffers(library, environment, graph, compiled, kind) for kind in ("Input", "Output"))
    for number in range(repeats + 1):
        if number == 1:
            library.call("StartProfiler", profiler)
        for buffer, array in zip(inputs, arrays):
            _write(library, buffer, array)
        library.call("RunCompiledModel", compiled, ctypes.c_size_t(0), ctypes.c_size_t(len(inputs)), inputs, ctypes.c_size_t(len(outputs)), outputs)
    library.call("StopProfiler", profiler)
    count = ctypes.c_int()
    library.call("GetNumProfilerEvents", profiler, ctypes.byref(count))
    events = (_Event * max(count.value, 1))()
    library.call("GetProfilerEvents", profiler, count.value, events)
    yield from ((event.tag or b"", event.type, event.elapsed_us) for event in events[: count.value])


def _buffers(library: _Library, environment: Any, graph: Any, compiled: Any, kind: str) -> Any:
    """A C array of LiteRT's own buffers for every input or output."""
    count, made = ctypes.c_size_t(), []
    library.call(f"GetNumSubgraph{kind}s", graph, ctypes.byref(count))
    for index in range(count.value):
        tensor, form = library.get(f"GetSubgraph{kind}", graph, ctypes.c_size_t(index)), ctypes.create_string_buffer(_TYPE_BYTES)
        library.call("GetRankedTensorType", tensor, form)
        needs = library.get(f"GetCompiledModel{kind}BufferRequirements", compiled, ctypes.c_size_t(0), ctypes.c_size_t(index))
        made.append(library.get("CreateManagedTensorBufferFromRequirements", environment, form, needs, destroy="TensorBuffer"))
    return (ctypes.c_void_p * len(made))(*made)


def _write(library: _Library, buffer: int, array: np.ndarray) -> None:
    handle, content = ctypes.c_void_p(buffer), np.ascontiguousarray(array)
    address = ctypes.c_void_p()
    library.call("LockTensorBuffer", handle, ctypes.byref(address), WRITE)
    ctypes.memmove(address, content.ctypes.data, content.nbytes)
    library.call("UnlockTensorBuffer", handle)


def means(events: list[tuple[bytes, int, int]]) -> list[dict[str, Any]]:
    """Mean times of events (tag, type, microseconds) by their place in an inference; a name that comes again gets its number."""
    inferences: list[list[tuple[bytes, int]]] = []
    for tag, kind, elapsed_us in events:
        if tag == INFERENCE:
            inferences.append([])
        elif kind in (OPERATOR, DELEGATED) and inferences:
            inferences[-1].append((tag, elapsed_us))
    rows, seen = [], {}  # type: list[dict[str, Any]], dict[str, int]
    for column in zip(*inferences):
        op = column[0][0].decode(errors="replace")
        seen[op] = seen.get(op, 0) + 1
        rows.append({"name": f"{op} #{seen[op]}", "op": op, "ms": sum(us for _, us in column) / len(column) / 1000})
    return rows
