"""From choices to how each layer learns: its compressor, the values that move, and a sentence where a choice had to give way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.nn import compressors
from sdk.training.nn.calibration import Calibration, ranks_for
from sdk.training.nn.factors import Held
from sdk.training.nn.program import Layer, TrainableProgram
from sdk.training.nn.rewrite import Learner
from sdk.training.nn.saved import Compressor, Saved


@dataclass(frozen=True)
class Learners:
    """by_layer: how each trained layer learns. values: copies of what moves, by key. scales: what their gradients are multiplied by.

    together: keys whose gradients are added up first. recomputed: layers whose block keeps its input alone. bases: copies of weights of which
    a part moves, that part being among the values.
    """

    by_layer: dict[str, Learner]
    values: dict[str, Tensor]
    scales: dict[str, Tensor]
    together: tuple[str, ...]
    recomputed: frozenset[str]
    bases: dict[str, Tensor]
    decisions: tuple[str, ...]

    @property
    def plain(self) -> tuple[str, ...]:
        """Keys of what learns by plain autograd."""
        return tuple(key for learner in self.by_layer.values() for key in learner.plain)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Bases that all batches share, every part of what they are held as."""
        found: list[Tensor] = []
        for learner in self.by_layer.values():
            if isinstance(learner.compressor, compressors.Fixed):
                found += [part for basis in learner.compressor.held if basis is not None for part in basis.parts]
            found += learner.basis.parts if learner.basis is not None else ()
        return tuple(found)


def learners(program: TrainableProgram, choices: Sequence[Choice], calibration: Calibration | None, training: Training) -> Learners:
    """How the chosen layers learn; layers without a choice are frozen. Raises UsageError for a layer that is not there, or bases that are missing."""
    by_layer: dict[str, Learner] = {}
    values: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    bases: dict[str, Tensor] = {}
    together: list[str] = []
    notes: list[str] = []
    for index, choice in enumerate(choices):
        layer = program.by_name.get(choice.layer)
        if choice.layer in by_layer:
            raise UsageError(f"layer {choice.layer} is chosen twice; choose one way for it to learn")
        if layer is None and choice.layer in program.plain and choice.method != "freeze":
            keys_of = program.plain[choice.layer]
            by_layer[choice.layer] = Learner(None, None, plain=keys_of)
            values.update({key: program.values[key].detach().clone() for key in keys_of})
            notes.append(f"{choice.layer} is no convolution and no linear layer of its own weight, so it learns by plain autograd, exactly")
        if layer is None and choice.layer not in program.plain:
            raise UsageError(f"the model has no layer {choice.layer!r} that can learn; it has {_some([*program.by_name, *program.plain])}")
        if layer is None:
            continue
        learner = _learner(layer, choice, calibration, training.seed + index, training.refresh, notes)
        if learner is None:
            continue
        by_layer[choice.layer] = learner
        for key in (layer.weight if learner.weight else None, learner.bias):
            if key is not None:
                values[key] = program.values[key].detach().clone()
        if learner.channels:
            bases[layer.weight] = values.pop(layer.weight)
            values[str(learner.weight)] = bases[layer.weight].narrow(1, 0, learner.channels)  # a view: what moves in it moves the weight
        if learner.adapter is not None and learner.basis is not None:
            shape = program.values[layer.weight].shape
            values[learner.adapter] = torch.zeros(shape[0], learner.basis.shape[1], *shape[2:])
        scales.update(_scales(layer, learner, program.values[layer.weight].dim()))
        if layer.shared:
            together += keys(learner)
            notes.append(f"{layer.name} is used {len(layer.steps)} times, so its gradients are added up before it moves")
    again = frozenset(choice.layer for choice in choices if choice.method == "recompute")
    return Learners(by_layer, values, scales, tuple(together), again, bases, tuple(notes))


def _learner(layer: Layer, choice: Choice, calibration: Calibration | None, seed: int, refresh: bool, notes: list[str]) -> Learner | None:
    method = choice.method
    if method == "freeze":
        return None
    if method == "bias":
        if layer.bias is None:
            notes.append(f"{layer.name} has no bias, so it stays frozen")
            return None
        return Learner(None, layer.bias)
    if method == "adapter" and layer.record.groups > 1:
        notes.append(f"{layer.name} has {layer.record.groups} groups and few weights, so it learns them exactly instead of an adapter")
        return Learner(layer.weight, layer.bias, compressors.exact())
    if method == "channels":
        return _by_channels(layer, choice, notes)
    if method == "adapter":
        return _adapted(layer, choice, calibration, notes)
    return Learner(layer.weight, layer.bias, _compressor(layer, choice, calibration, seed, refresh))


def _by_channels(layer: Layer, choice: Choice, notes: list[str]) -> Learner:
    """The first channels alone learn; their part of the weight has its key with "#c" behind it."""
    if layer.record.groups > 1:
        notes.append(f"{layer.name} has {layer.record.groups} groups and few weights, so it learns all of them instead of some channels'")
        return Learner(layer.weight, layer.bias, compressors.exact(choice.factors))
    count = max(1, round(layer.record.weight_shape[1] * choice.fraction))
    return Learner(f"{layer.weight}#c", layer.bias, Channels(count, 1 if layer.record.op == "conv2d" else -1, choice.factors), channels=count)


@dataclass
class Channels:
    """Keeps the first `count` channels (a linear layer's features) of the input."""

    count: int
    axis: int
    factors: str = "float32"
    name: str = "channels"

    def compress(self, x: Tensor) -> Saved:
        """A copy of them, of the shape of the whole."""
        some = x.narrow(self.axis, 0, self.count).contiguous()
        return replace(compressors.exact(self.factors).compress(some), shape=x.shape)


def _adapted(layer: Layer, choice: Choice, calibration: Calibration | None, notes: list[str]) -> Learner:
    """An adapter on the channels, whose P has the key of the weight with "#p" behind it."""
    ranks = _ranks(layer, choice, calibration)
    mode = 1 if layer.record.op == "conv2d" else len(ranks) - 1
    if not ranks[mode]:
        notes.append(f"{layer.name} would need nearly all of its {layer.record.input_shape[mode - 1]} channels, so it learns its weight, not an adapter")
        return Learner(layer.weight, layer.bias, compressors.exact(choice.factors))
    basis = _known(calibration, layer, choice).basis(layer.name, ranks)[mode - 1]
    held = None if basis is None else Held.of(basis, choice.factors)
    return Learner(None, layer.bias, compressors.exact(choice.factors), f"{layer.weight}#p", held)


def _compressor(layer: Layer, choice: Choice, calibration: Calibration | None, seed: int, refresh: bool) -> Compressor:
    match choice.method:
        case "exact" | "recompute":
            return compressors.exact(choice.factors)
        case "svd":
            if choice.ranks and not choice.ranks[0]:
                return compressors.exact(choice.factors)
            return compressors.svd(choice.eps, choice.factors, choice.ranks[0] if choice.ranks else 0)
        case "hosvd":
            return compressors.hosvd(choice.eps, choice.ranks, choice.factors)
        case "asi":
            return compressors.asi(_ranks(layer, choice, calibration), seed, choice.factors)
        case "fixed":
            bases = _known(calibration, layer, choice).basis(layer.name, _ranks(layer, choice, calibration))
            return compressors.fixed(bases, compressors.Refresh() if refresh else None, choice.factors)
    raise UsageError(f"layer {layer.name} cannot be treated by {choice.method!r} on a Linux device; choose exact, fixed, asi, hosvd, svd, adapter or bias")


def _ranks(layer: Layer, choice: Choice, calibration: Calibration | None) -> tuple[int, ...]:
    """The choice's ranks, or those that its eps needs by the calibrated spectra; batch first. Raises UsageError for ranks that do not fit."""
    shape = layer.record.input_shape
    if not choice.ranks:
        return ranks_for(_known(calibration, layer, choice).record(layer.name), choice.method, choice.eps)
    if len(choice.ranks) != 1 + len(shape) or any(rank > length for rank, length in zip(choice.ranks[1:], shape, strict=False)):
        raise UsageError(f"ranks {choice.ranks} do not fit layer {layer.name}, whose input is [batch, {', '.join(map(str, shape))}]; give one a mode")
    return tuple(choice.ranks)


def _known(calibration: Calibration | None, layer: Layer, choice: Choice) -> Calibration:
    if calibration is None:
        raise UsageError(f"layer {layer.name} is to learn by {choice.method}, which needs a calibration; give calibration=calibrate(program, batches)")
    if calibration.record(layer.name).input_shape != layer.record.input_shape:
        raise UsageError(f"the calibration is of another model, in which {layer.name} has inputs of another shape; calibrate this one")
    return calibration


def _scales(layer: Layer, learner: Learner, weight_dim: int) -> dict[str, Tensor]:
    """s^2 of a folded batch norm, shaped for the weight and, where it is the convolution's own, for the bias."""
    if layer.fold is None:
        return {}
    square = layer.fold.scale**2
    found = {}
    if learner.weight is not None or learner.adapter is not None:
        found[learner.weight or str(learner.adapter)] = square.reshape(-1, *[1] * (weight_dim - 1))
    if learner.bias is not None and layer.fold.own_bias:
        found[learner.bias] = square
    return found


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def keys(learner: Learner) -> list[str]:
    """The keys of the values that move."""
    return [key for key in (learner.weight, learner.bias, learner.adapter) if key is not None]
