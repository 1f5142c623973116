"""How far a device's output is from the golden one; the host uses the same measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """One output against its golden values: bytes compared and equal, and the largest difference relative to the largest wanted value."""

    bytes_compared: int
    bytes_equal: int
    relative: float


def compare(wanted: np.ndarray, got: np.ndarray) -> Difference:
    """Both of one shape and type. A value that is not finite where the golden one is counts as infinitely far.

    >>> compare(np.array([1.0, -4.0], "f4"), np.array([1.0, -3.0], "f4")).relative
    0.25
    """
    equal = int(np.count_nonzero(_bytes(wanted) == _bytes(got)))
    return Difference(wanted.nbytes, equal, _relative(wanted, got))


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _relative(wanted: np.ndarray, got: np.ndarray) -> float:
    if not wanted.size:
        return 0.0
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    odd = ~(np.isfinite(exact) & np.isfinite(found))
    if np.any(odd & ~((exact == found) | (np.isnan(exact) & np.isnan(found)))):
        return float("inf")
    exact, found = np.where(odd, 0, exact), np.where(odd, 0, found)
    return float(np.max(np.abs(exact - found)) / max(float(np.max(np.abs(exact))), 1e-6))


def mismatch(name: str, wanted: np.ndarray, got: np.ndarray) -> str | None:
    """A sentence when shape or type differ, else None."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"output {name} is {got.dtype} {list(got.shape)} and should be {wanted.dtype} {list(wanted.shape)}"
    return None


def prove(vectors: list[tuple[list[np.ndarray], list[np.ndarray]]], names: list[str], tolerance: float, run: Any, progress: Any = None) -> dict[str, Any]:
    """Run every (inputs, wanted outputs) with `run(inputs) -> outputs` and compare, up to the first output that is too far off.

    Returns vectors, bytes_compared, bytes_equal, tolerance, largest_difference and first_difference (None: all agreed).
    """
    compared = equal = 0
    largest, first = 0.0, None
    count = 0
    for count, (inputs, wanted) in enumerate(vectors, 1):
        if progress:
            progress(f"vector {count} of {len(vectors)}")
        found = run(inputs)
        if len(found) != len(wanted):
            first = f"{len(found)} outputs and not {len(wanted)}, vector {count - 1}"
            break
        for index, name in enumerate(names):
            wrong = mismatch(name, wanted[index], found[index])
            if wrong is None:
                difference = compare(wanted[index], found[index])
                compared, equal, largest = compared + difference.bytes_compared, equal + difference.bytes_equal, max(largest, difference.relative)
                if difference.relative > tolerance or (tolerance == 0 and difference.bytes_equal < difference.bytes_compared):
                    wrong = f"output {name} differs by {difference.relative:.1e} of its largest value, allowed {tolerance:.0e}"
            first = first or (f"{wrong}, vector {count - 1}" if wrong else None)
        if first:
            break
    return {
        "vectors": count, "bytes_compared": compared, "bytes_equal": equal, "tolerance": tolerance, "largest_difference": largest, "first_difference": first,
    }  # fmt: skip
