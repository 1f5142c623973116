"""How fast this machine copies memory and multiplies matrices, on one thread and on all: needs numpy only."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .bundle import machine

COPY_BYTES = 16 << 20  # more than the last cache of a board, little enough for four threads on 512 MB
SIDE = 256  # of the square float32 matrices: they fit into a second-level cache, so that arithmetic is what limits


def calibrate(seconds_each: float) -> dict[str, Any]:
    """{"processor", "cores", "machine", "python", "numpy", "rates": [{"name", "bytes_s" or "macs_s"}]}.

    Bytes copied a second ("memcpy") and float32 multiply-accumulates a second of numpy's matrix product ("numpy/float32").
    """
    rates = []
    for threads in thread_counts():
        rates.append({"name": f"memcpy/{threads}t", "bytes_s": round(copy_rate(threads, seconds_each))})
        rates.append({"name": f"numpy/float32/{threads}t", "macs_s": round(product_rate(threads, seconds_each))})
    about = {"processor": processor(), "cores": os.cpu_count(), "machine": machine()}
    return {**about, "python": platform.python_version(), "numpy": np.__version__, "rates": rates}


def thread_counts() -> list[int]:
    """One, and as many as there are cores."""
    return sorted({1, os.cpu_count() or 1})


def copy_rate(threads: int, seconds: float) -> float:
    """Bytes copied a second by all threads together."""
    pairs = [(np.zeros(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)) for _ in range(threads)]

    def copy(index: int) -> None:
        np.copyto(*pairs[index])  # lets other threads run meanwhile

    return threads * COPY_BYTES / fastest(copy, threads, seconds)


def product_rate(threads: int, seconds: float) -> float:
    """Multiply-accumulates a second of all threads together, each with matrices of its own."""
    rng = np.random.default_rng(0)
    sets = [(rng.random((SIDE, SIDE), np.float32), rng.random((SIDE, SIDE), np.float32), np.empty((SIDE, SIDE), np.float32)) for _ in range(threads)]
    inner = 8  # products a turn: handing a turn to a thread must not count

    def multiply(index: int) -> None:
        a, b, out = sets[index]
        for _ in range(inner):
            np.matmul(a, b, out=out)

    return threads * inner * SIDE**3 / fastest(multiply, threads, seconds)


def fastest(work: Callable[[int], None], threads: int, seconds: float) -> float:
    """Seconds of the fastest turn in which every thread does `work(its number)` once; turns are repeated for about `seconds`."""
    gate = threading.Barrier(threads + 1)
    ended = threading.Event()

    def serve(index: int) -> None:
        while True:
            gate.wait()
            if ended.is_set():
                return
            work(index)
            gate.wait()

    for index in range(threads):
        threading.Thread(target=serve, args=(index,), daemon=True).start()
    best, limit = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < limit:
        start = time.perf_counter()
        gate.wait()
        gate.wait()
        best = min(best, time.perf_counter() - start)
    ended.set()
    gate.wait()
    return best


def processor() -> str:
    """The processor's name as the system tells it; on most ARM boards the board's model."""
    for path, key in (("/proc/device-tree/model", None), ("/proc/cpuinfo", "model name")):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        if key is None:
            return text.strip("\0 \n")
        found = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(key)]
        if found:
            return found[0]
    return platform.processor() or platform.machine()
