"""What a training step computes, by class, and how long that takes at a device's rates.

A convolution or linear layer computes its forward pass, its input gradient (the same number of multiply-accumulates) and its weight
gradient. From a compressed input the weight gradient takes fewer, and compressing takes some: projections on fixed bases, Gram matrices
and eigenvectors, or a subspace iteration. Everything else of a step moves bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sdk.planner.training.kept import channel_mode, learning_channels, shape_of
from sdk.planner.training.records import Choice, LayerRecord

CLASSES = ("pointwise", "window", "depthwise", "dense")


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one layer in one step, by class; `moved_bytes` by everything that only moves values; `calls` of operations."""

    forward: float = 0.0
    input_gradient: float = 0.0
    weight_gradient: float = 0.0
    compression: float = 0.0
    moved_bytes: float = 0.0
    calls: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def layer_class(record: LayerRecord) -> str:
    """How fast a layer's arithmetic runs depends on which of CLASSES it is."""
    if record.op == "linear":
        return "dense"
    if record.groups > 1 and record.groups == record.input_shape[0]:
        return "depthwise"
    return "pointwise" if record.weight_shape[2:] == (1, 1) else "window"


def layer_work(record: LayerRecord, choice: Choice, batch: int, first: bool = False) -> Work:
    """The work of one layer of the trained part. first: it needs no input gradient. A recomputed layer goes forward twice."""
    macs = float(record.macs * batch)
    bias = 0.0 if choice.method == "freeze" else 4.0 * record.output_size * batch
    weight, compression = weight_gradient_macs(record, choice, batch), compression_macs(record, choice, batch)
    again = choice.method == "recompute"
    forward = macs * (1 + again) + adapter_macs(record, choice, batch)
    return Work(forward, 0.0 if first else macs, weight, compression, bias, 2 + (choice.method != "freeze") + again)


def adapter_macs(record: LayerRecord, choice: Choice, batch: int) -> float:
    """What an adapter adds to the forward pass behind its projection: the kernel on K channels."""
    if choice.method != "adapter":
        return 0.0
    rank = next(r for r in choice.ranks if r)
    return float(record.macs * batch) * rank / record.weight_shape[1]


def weight_gradient_macs(record: LayerRecord, choice: Choice, batch: int) -> float:
    """Multiply-accumulates of the weight gradient from what was kept."""
    macs = float(record.macs * batch)
    match choice.method:
        case "freeze" | "bias":
            return 0.0
        case "channels":
            return macs * learning_channels(record, choice) / record.weight_shape[1]
        case "exact" | "recompute" | "svd":
            return macs
    channels = choice.ranks[channel_mode(len(choice.ranks))] if choice.ranks else 0
    share = channels / record.input_shape[0 if record.op == "conv2d" else -1] if channels and record.groups == 1 else 1.0
    return macs * share + (0.0 if choice.method == "adapter" else record.weight_size * max(channels, 1))


def compression_macs(record: LayerRecord, choice: Choice, batch: int) -> float:
    """Multiply-accumulates that compressing the input takes."""
    if choice.method not in ("fixed", "adapter", "asi", "hosvd", "svd"):
        return 0.0
    shape = shape_of(record, batch)
    size = float(np.prod(shape))
    if choice.method == "svd":
        return size * batch * 2
    ranks = choice.ranks or tuple(d // 2 for d in shape)
    order = sorted((n for n, r in enumerate(ranks) if r), key=lambda n: ranks[n] / shape[n])
    total, left = 0.0, size
    for n in order:
        total += left * _per_value(choice.method, shape[n], ranks[n]) + _decomposition(choice.method, shape[n], ranks[n])
        left *= ranks[n] / shape[n]
    return total


def _per_value(method: str, length: int, rank: int) -> float:
    """Multiply-accumulates for every value of the tensor that a mode is compressed in."""
    return float({"fixed": rank, "adapter": rank, "asi": 3 * rank, "hosvd": length + rank}[method])


def _decomposition(method: str, length: int, rank: int) -> float:
    """The same for the small matrices: QR (2 d K^2) or eigenvectors (about 9 d^3)."""
    return {"asi": 2.0 * length * rank**2, "hosvd": 9.0 * length**3}.get(method, 0.0)


@dataclass(frozen=True)
class Rates:
    """How fast a device trains. macs_s: for each of CLASSES the multiply-accumulates a second of (forward, input gradient, weight gradient);
    compression_macs_s; bytes_s moved; call_s for each operation. error: nine of ten measured steps lay within this factor."""

    macs_s: dict[str, tuple[float, float, float]]
    compression_macs_s: float
    bytes_s: float
    call_s: float
    error: float
    basis: str

    def seconds(self, kind: str, work: Work) -> float:
        """Time of this work in a layer of class `kind`."""
        done = (work.forward, work.input_gradient, work.weight_gradient)
        arithmetic = sum(macs / rate for macs, rate in zip(done, self.macs_s[kind], strict=True))
        return arithmetic + work.compression / self.compression_macs_s + work.moved_bytes / self.bytes_s + work.calls * self.call_s


#: One multiply-accumulate a unit: for ranking choices where a device's rates are not known.
UNIT = Rates(dict.fromkeys(CLASSES, (1000000000.0, 1000000000.0, 1000000000.0)), 1e9, 1e18, 0.0, float("inf"), "")


def total(works: Sequence[Work]) -> Work:
    """The sum of several."""
    return sum(works, Work())
