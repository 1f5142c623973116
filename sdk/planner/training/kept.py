"""What is kept of each layer for the backward pass, in bytes: exact arithmetic where the ranks are fixed, an expectation where data decide.

A tensor is held as a core [K_0, K_1, ..] and, for every mode whose basis belongs to the batch, that basis [d_n, K_n]. Fixed bases are
constants, one copy for all batches, held like the core; those that follow the batches (asi) go on to the next one, so they stay float32.
float16 takes 2 bytes a value; int8 takes 1, and a float32 scale for each principal component of the core's channels and for each column of
a basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sdk.planner.training.records import Choice, LayerRecord

VALUE_BYTES = {"float32": 4, "float16": 2, "int8": 1}
SCALE_BYTES = 4
#: Methods whose bases are computed anew from each batch.
PER_BATCH = ("asi", "hosvd", "svd")
#: As `sdk.training.nn` has them: a mode that keeps this share is left whole, and so is the batch's mode up to this size (asi). A test compares.
WHOLE_FROM = 0.75
SMALL_BATCH = 8


def shape_of(record: LayerRecord, batch: int) -> tuple[int, ...]:
    """The layer's input with its batch: (B, C, H, W), (B, I), (B, L, I) or (B, M, L, I)."""
    return (batch, *record.input_shape)


def held_bytes(shape: Sequence[int], factors: str, component: int) -> int:
    """Bytes of one tensor held as `factors`; int8 has a scale for each index of dimension `component`."""
    scales = SCALE_BYTES * shape[component] if factors == "int8" else 0
    return int(np.prod(shape, dtype=np.int64)) * VALUE_BYTES[factors] + scales


def tucker_bytes(shape: Sequence[int], ranks: Sequence[int], factors: str, bases: str) -> int:
    """Core and per-batch bases. ranks: of each mode, 0 for a mode left whole; bases: how they are held, "" where they belong to no batch."""
    core = [rank or d for d, rank in zip(shape, ranks, strict=True)]
    kept = held_bytes(core, factors, channel_mode(len(shape)))
    if not bases:
        return kept
    return kept + sum(held_bytes((d, rank), bases, 1) for d, rank in zip(shape, ranks, strict=True) if rank)


def channel_mode(dimensions: int) -> int:
    """The mode that holds the channels of an input with its batch."""
    return 1 if dimensions == 4 else dimensions - 1


def input_bytes(record: LayerRecord, choice: Choice, batch: int) -> int:
    """What the layer keeps of its input for its weight gradient; the mean over the calibration's batches where each decides for itself.

    Raises ValueError for a compressed choice without ranks.
    """
    if seen := bytes_by_batch(record, choice, batch):
        return round(sum(seen) / len(seen))
    match choice.method:
        case "freeze" | "bias" | "recompute":
            return 0
        case "exact":
            return held_bytes(shape_of(record, batch), choice.factors, channel_mode(1 + len(record.input_shape)))
        case "channels":
            whole = shape_of(record, batch)
            return held_bytes(with_channels(whole, learning_channels(record, choice)), choice.factors, channel_mode(len(whole)))
    if choice.method == "svd":
        return _svd_bytes(record, choice, batch)
    shape = shape_of(record, batch)
    ranks = _ranks(record, choice)
    if choice.method in PER_BATCH:
        small = choice.method == "asi" and batch <= SMALL_BATCH
        ranks = (0 if small else cut(ranks[0], batch), *(cut(rank, d) for rank, d in zip(ranks[1:], shape[1:], strict=True)))
    bases = "float32" if choice.method == "asi" else choice.factors if choice.method in PER_BATCH else ""
    return tucker_bytes(shape, ranks, choice.factors, bases)


def bytes_by_batch(record: LayerRecord, choice: Choice, batch: int) -> list[int]:
    """What a batch would keep with the ranks that each calibration batch took; [] where ranks are given, or none were seen.

    The batch's own rank is taken as the same share of the samples.
    """
    if choice.ranks or choice.method not in ("hosvd", "svd"):
        return []
    found, shape = [], shape_of(record, batch)
    for samples, own, *others in record.batch_ranks.get((choice.method, choice.eps), ()):
        ranks = (min(batch, max(1, round(own * batch / samples))) if own else 0, *others)
        found.append(tucker_bytes(shape, ranks, choice.factors, choice.factors))
    return found


def planned_ranks(record: LayerRecord, method: str, eps: float, batch: int) -> tuple[int, ...]:
    """Ranks, batch first, that hosvd or svd is held to: those that calibration batches took at this eps, the mean rounded up.

    So a plan's bytes are what each batch keeps. () where no batch was seen; 0 for a mode that stays whole.
    """
    seen = record.batch_ranks.get((method, eps), ())
    if not seen:
        return ()
    found = []
    for n, length in enumerate(shape_of(record, batch)):
        took = [ranks[n + 1] * (batch / ranks[0] if n == 0 else 1.0) or length for ranks in seen]
        found.append(min(length, math.ceil(sum(took) / len(took) - 1e-9)))
    if method == "svd":
        return (0 if svd_is_whole(record, found[0], batch) else found[0], *(0 for _ in found[1:]))
    return tuple(cut(rank, length) for rank, length in zip(found, shape_of(record, batch), strict=True))


def svd_is_whole(record: LayerRecord, rank: int, batch: int) -> bool:
    """Whether two factors of this rank would take as many values as the input."""
    return rank * (batch + record.input_size) >= batch * record.input_size


def cut(rank: int, length: int) -> int:
    """The rank that is kept of a mode computed per batch: 0 (whole) where nothing is gained."""
    return 0 if rank >= WHOLE_FROM * length else rank


def with_channels(shape: Sequence[int], channels: int) -> tuple[int, ...]:
    """The shape, batch first, with another number of channels."""
    mode = channel_mode(len(shape))
    return (*shape[:mode], channels, *shape[mode + 1 :])


def constant_bytes(record: LayerRecord, choice: Choice) -> int:
    """Bases that are the same for every batch, one [d_n, K_n] a mode, held like what is projected on them."""
    if choice.method not in ("fixed", "adapter"):
        return 0
    return sum(held_bytes((d, rank), choice.factors, 1) for d, rank in zip(record.input_shape, _ranks(record, choice)[1:], strict=True) if rank)


def learning_bytes(record: LayerRecord, choice: Choice) -> int:
    """Everything of the layer that learns, float32: weights or an adapter's values, and the bias."""
    bias = (record.output_shape[0 if record.op == "conv2d" else -1] if record.has_bias else 0) * (choice.method != "freeze")
    return 4 * (learning_weights(record, choice) + bias)


def learning_weights(record: LayerRecord, choice: Choice) -> int:
    """Number of weights that learn, without the bias."""
    match choice.method:
        case "freeze" | "bias":
            return 0
        case "adapter":
            rank = next(r for r in _ranks(record, choice) if r)
            return record.weight_size // record.weight_shape[1] * rank
        case "channels":
            return record.weight_size // record.weight_shape[1] * learning_channels(record, choice)
    return record.weight_size


def learning_channels(record: LayerRecord, choice: Choice) -> int:
    """Input channels (a linear layer's features) whose weights learn."""
    return max(1, round(record.weight_shape[1] * choice.fraction))


def still_bytes(record: LayerRecord, choice: Choice) -> int:
    """What is copied beside the values that learn, though it stays as it is: the other channels' weights."""
    return 4 * (record.weight_size - learning_weights(record, choice)) if choice.method == "channels" else 0


def mask_bytes(values: int, bits: int = 1) -> int:
    """Bytes of `bits` for every value, packed."""
    return -(-values * bits // 8)


def _ranks(record: LayerRecord, choice: Choice) -> tuple[int, ...]:
    """The choice's ranks, batch first; a rank as long as its mode is as good as the mode left whole only where the choice says 0."""
    if choice.ranks:
        if len(choice.ranks) != 1 + len(record.input_shape):
            raise ValueError(f"layer {record.name} has {1 + len(record.input_shape)} modes and its choice names {len(choice.ranks)} ranks")
        return choice.ranks
    if choice.method in ("hosvd",) and record.spectra:
        return expected_ranks(record, choice.eps)
    raise ValueError(f"layer {record.name} is to be compressed by {choice.method} without ranks; calibrate, then choose")


def expected_ranks(record: LayerRecord, eps: float, batch_rank: int = 0) -> tuple[int, ...]:
    """Ranks a batch is expected to need, from the calibrated spectra, each mode alone: the fewest components with `eps` of the energy."""
    return (batch_rank, *(rank_for(spectrum, eps) for spectrum in record.spectra))


def rank_for(spectrum: np.ndarray, eps: float) -> int:
    """min k: the first k values hold `eps` of the sum; 1 where there is no energy at all."""
    total = np.cumsum(np.asarray(spectrum, np.float64))
    if total[-1] <= 0:
        return 1
    return min(int(np.searchsorted(total, eps * total[-1] * (1 - 1e-12))) + 1, len(total))


def _svd_bytes(record: LayerRecord, choice: Choice, batch: int) -> int:
    """U S [B, K] and V [CHW, K] of the unfolding along the batch, or the input, where that is no more."""
    rank = choice.ranks[0] if choice.ranks else batch
    if not rank or svd_is_whole(record, rank, batch):
        return held_bytes(shape_of(record, batch), choice.factors, channel_mode(1 + len(record.input_shape)))
    return tucker_bytes(shape_of(record, batch), (rank, *(0 for _ in record.input_shape)), choice.factors, choice.factors)


def with_factors(choices: Sequence[Choice], factors: str) -> tuple[Choice, ...]:
    """The choices, what they keep held as `factors`; exact ones stay as they are."""
    return tuple(c if c.method in ("freeze", "bias", "exact", "recompute") else replace(c, factors=factors) for c in choices)
