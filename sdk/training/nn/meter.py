"""What training really takes: bytes held for the backward pass, and the peak of a fresh process."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdk.errors import UsageError


@dataclass(frozen=True)
class SavedBytes:
    """Bytes of unique storages held for backward. batch: made by this batch; parameters: weights, held anyway; constants: bases and such."""

    batch: int = 0
    parameters: int = 0
    constants: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.batch + self.parameters + self.constants


class Meter:
    """Counts what autograd is given to keep while it watches: `with meter.watching(): loss = ...`, then `meter.saved()`."""

    def __init__(self, parameters: Iterable[Tensor] = (), constants: Iterable[Tensor] = ()) -> None:
        self._parameters = {storage(t)[0] for t in parameters}
        self._constants = dict(map(storage, constants))
        self._seen: dict[int, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts from zero within the block: the forward pass, at whose end all that was saved is still held."""
        self._seen = {}
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield

    def saved(self) -> SavedBytes:
        """What was held at the end of the last block. Constants are counted whole, whether autograd or a layer holds them."""
        batch = sum(size for key, size in self._seen.items() if key not in self._parameters and key not in self._constants)
        parameters = sum(size for key, size in self._seen.items() if key in self._parameters)
        return SavedBytes(batch, parameters, sum(self._constants.values()))

    def _pack(self, value: Tensor) -> Tensor:
        key, size = storage(value)
        if size:
            self._seen[key] = size
        return value.detach()  # the value itself would tie a knot where a node keeps its own result


def storage(value: Tensor) -> tuple[int, int]:
    """(address, bytes) of the storage behind a tensor."""
    held = value.untyped_storage()
    return held.data_ptr(), held.nbytes()


def saved_bytes(run: Callable[[], Any], parameters: Iterable[Tensor] = (), constants: Iterable[Tensor] = ()) -> SavedBytes:
    """What the forward pass `run` makes autograd hold; its result is dropped afterwards. parameters and constants are told apart."""
    meter = Meter(parameters, constants)
    with meter.watching():
        kept = run()
    found = meter.saved()
    del kept
    return found


@dataclass(frozen=True)
class PeakBytes:
    """Resident set of a fresh process, bytes: before the task ran, and at its highest while it ran."""

    before: int
    peak: int

    @property
    def growth(self) -> int:
        """What the task added at its highest."""
        return self.peak - self.before


def peak_bytes(task: Callable[..., Callable[[], Any]], *args: Any, threads: int = 1) -> PeakBytes:
    """Peak of a task in a fresh process. `task(*args)` makes everything ready there and returns what is to be measured, a call without arguments.

    task must be a function at the top of an importable module, its arguments picklable. Linux only. Raises UsageError where the task fails.
    """
    payload = pickle.dumps((task, args, threads))
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": str(threads)}
    code = "import sys, pickle; data = sys.stdin.buffer.read(); sys.path[:] = pickle.loads(data[:int(sys.argv[1])]); "
    code += "from sdk.training.nn.meter import measure_here; measure_here(data[int(sys.argv[1]):])"
    paths = pickle.dumps(sys.path)
    done = subprocess.run([sys.executable, "-c", code, str(len(paths))], input=paths + payload, capture_output=True, env=environment, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UsageError(f"the task to be measured failed in its own process ({said[-1]}); run it here once to see why")
    before, peak = (int(word) for word in done.stdout.split()[-2:])
    return PeakBytes(before, peak)


def measure_here(payload: bytes) -> None:
    """In the fresh process: make ready, forget the peak so far, run, tell both numbers to the parent on stdout."""
    task, args, threads = pickle.loads(payload)
    torch.set_num_threads(threads)
    run = task(*args)
    gc.collect()
    _trim()
    before = forget_peak()
    run()
    os.write(1, f"\n{before} {resident_peak()}\n".encode())


def forget_peak() -> int:
    """Start a new peak from what is resident now, which is returned, bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def resident_peak() -> int:
    """The highest resident set since `forget_peak`, bytes."""
    return _status("VmHWM")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{field}:"))


def _trim() -> None:
    """Give free heap back, so that it is not counted as used and hides what the task takes."""
    import ctypes

    with suppress(AttributeError, OSError):  # no glibc: the peak is measured all the same, with the heap as it is
        ctypes.CDLL(None).malloc_trim(0)


def _unpack(value: Tensor) -> Tensor:
    return value
