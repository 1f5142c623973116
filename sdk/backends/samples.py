"""Calibration samples as every Linux backend reads them, and how far a quantised output is from the float one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.backends.payload import Port
from sdk.data import Calibration
from sdk.errors import DataError

_BEST_DB = 150.0  # what "no noise at all" is told as: float32 itself does not resolve more


@dataclass(frozen=True)
class LayerError:
    """One layer of a quantised payload: the signal to quantisation noise of its output, everything in front quantised too."""

    layer: str
    op: str
    sqnr_db: float


def arrays(samples: Any, ports: Sequence[Port]) -> Iterator[tuple[np.ndarray, ...]]:
    """Each sample as one array per port, in the port's shape and data type; read one at a time, so that memory stays bounded.

    A sample is an array, a sequence in the order of the ports, or a mapping by name; the first dimension may be left out where it is 1.
    Raises DataError for one that does not fit, or holds NaN or infinity.
    """
    for i, sample in enumerate(_each(samples)):
        parts = _parts(sample, ports, i)
        yield tuple(_fitted(part, port, i) for part, port in zip(parts, ports, strict=True))


def calibration(samples: Any, ports: Sequence[Port], name: str) -> list[tuple[np.ndarray, ...]]:
    """All samples, at least one. Raises DataError naming the model when there is none."""
    found = list(arrays(samples, ports))
    if not found:
        raise DataError(f"{name} is to be quantised and no calibration sample was given; give calibration=, a few hundred real inputs")
    return found


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to noise in dB of `value` beside `reference`, arrays of the same shape; 150 at most."""
    signal = float(np.mean(np.square(reference, dtype=np.float64)))
    noise = float(np.mean(np.square(reference.astype(np.float64) - value)))
    if noise == 0.0 or signal == 0.0:
        return _BEST_DB if noise == 0.0 else -_BEST_DB
    return float(np.clip(10 * np.log10(signal / noise), -_BEST_DB, _BEST_DB))


def _each(samples: Any) -> Iterable[Any]:
    return (samples.load(i) for i in range(samples.count)) if isinstance(samples, Calibration) else samples


def _parts(sample: Any, ports: Sequence[Port], index: int) -> Sequence[Any]:
    if isinstance(sample, Mapping):
        missing = [port.name for port in ports if port.name not in sample]
        if missing:
            raise DataError(f"calibration sample {index} has no {missing[0]!r}; it has {', '.join(map(str, sample))}")
        return [sample[port.name] for port in ports]
    parts = list(sample) if isinstance(sample, (tuple, list)) else [sample]
    if len(parts) != len(ports):
        raise DataError(f"calibration sample {index} has {len(parts)} arrays and the model takes {len(ports)}; give one for each input")
    return parts


def _fitted(value: Any, port: Port, index: int) -> np.ndarray:
    array = np.asarray(value)
    if array.shape == port.shape[1:] and port.shape[:1] == (1,):
        array = array[None]
    if array.shape != port.shape:
        raise DataError(f"calibration sample {index} has shape {list(array.shape)} and input {port.name} takes {list(port.shape)}; reshape it")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"calibration sample {index} holds NaN or infinity; take it out")
    return np.asarray(array, port.dtype, order="C")  # not ascontiguousarray, which gives a scalar one dimension
