"""What values every tensor of a float graph takes on calibration data.

The samples run through the interpreter in batches; of each tensor only running figures are kept (range, histogram,
per-channel peak and power), so memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from sdk.data import Calibration
from sdk.errors import DataError
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Tensor
from sdk.passes.ranges import Histogram

#: Called with (samples done, samples in all).
Progress = Callable[[int, int], None]
#: Ops whose input 1 is a weight, and the weight's axis of output channels.
WEIGHT_AXIS: Mapping[str, int] = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}
_BUDGET_BYTES = 256 << 20


@dataclass(frozen=True)
class Stats:
    """What was seen of one tensor; channels are the last dimension."""

    low: float
    high: float
    samples: int
    channel_peak: np.ndarray  # [C] largest absolute value
    channel_power: np.ndarray  # [C] mean square
    histogram: Histogram | None = field(default=None, repr=False)

    def merged(self, other: Stats) -> Stats:
        """The figures of both sets of samples together."""
        total = self.samples + other.samples
        a, b = self.samples / total, other.samples / total
        return Stats(
            min(self.low, other.low),
            max(self.high, other.high),
            total,
            np.maximum(self.channel_peak, other.channel_peak),
            a * self.channel_power + b * other.channel_power,
            None if self.histogram is None or other.histogram is None else _joined(self.histogram, other.histogram),
        )


def _joined(a: Histogram, b: Histogram) -> Histogram:
    limit = max(a.limit, b.limit)
    return Histogram(limit, a.grown(limit).counts + b.grown(limit).counts)


def observe(graph: Graph, calibration: Calibration, histograms: bool = True, progress: Progress | None = None) -> dict[str, Stats]:
    """Stats of every float activation of `graph`. Raises DataError for NaN or infinity, with the tensor's name."""
    seen: dict[str, Stats] = {}
    done = 0
    for count, values in runs(graph, calibration):
        for tensor in graph.activations():
            if tensor.dtype != "float32":
                continue
            stats = _stats(graph, tensor, values[tensor.name], count, histograms)
            seen[tensor.name] = seen[tensor.name].merged(stats) if tensor.name in seen else stats
        done += count
        if progress is not None:
            progress(done, calibration.count)
    return seen


def runs(graph: Graph, calibration: Calibration) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(samples, every tensor's values [samples, ...]) batch by batch, as many samples at once as fit the memory budget."""
    for batch in calibration.batches(batch_size(graph)):
        with np.errstate(over="ignore", invalid="ignore"):  # `observe` says so in a sentence
            values = run(graph, batch, keep=True)
        yield len(next(iter(batch.values()))), values


def batch_size(graph: Graph, budget_bytes: int = _BUDGET_BYTES) -> int:
    """Samples at once: all activations within the budget, at most 64."""
    per_sample = sum(t.size_bytes for t in graph.activations())
    return max(1, min(64, budget_bytes // max(per_sample, 1)))


def _stats(graph: Graph, tensor: Tensor, x: np.ndarray, samples: int, histogram: bool) -> Stats:
    if x.size == 0:
        return Stats(0.0, 0.0, samples, np.zeros(0), np.zeros(0))
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(_not_finite(graph, tensor))
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(-1, 1)
    # [samples * ..., C]; einsum squares and sums without a copy
    power = np.einsum("ij,ij->j", rows, rows, dtype=np.float64) / len(rows)
    return Stats(low, high, samples, np.abs(rows).max(0), power, Histogram.of(x) if histogram else None)


def _not_finite(graph: Graph, tensor: Tensor) -> str:
    node = graph.producer(tensor.name)
    if node is None:
        return f"calibration data holds NaN or infinity in input {tensor.name}; clean the samples"
    where = f"tensor {tensor.name} of node {node.name} ({node.op})"
    return f"{where} became NaN or infinite on the calibration data; check how the samples are scaled, and the weights"
