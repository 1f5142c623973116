"""From choices to how each layer learns: its compressor, the values that move, and a sentence where a choice had to give way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.training.nn import compressors
from sdk.training.nn.compressors import Compressor
from sdk.training.nn.program import Layer, TrainableProgram
from sdk.training.nn.rewrite import Learner

if TYPE_CHECKING:
    from sdk.training.nn.calibrate import Calibration


@dataclass(frozen=True)
class Learners:
    """by_layer: how each trained layer learns. values: copies of what moves, by key. scales: what their gradients are multiplied by."""

    by_layer: dict[str, Learner]
    values: dict[str, Tensor]
    scales: dict[str, Tensor]
    together: tuple[str, ...]
    decisions: tuple[str, ...]

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Bases that all batches share."""
        found: list[Tensor] = []
        for learner in self.by_layer.values():
            found += [b for b in getattr(learner.compressor, "bases", ()) or () if b is not None]
            found += [learner.basis] if learner.basis is not None else []
        return tuple(found)


def learners(program: TrainableProgram, choices: Sequence[Choice], calibration: Calibration | None, seed: int) -> Learners:
    """How the chosen layers learn; layers without a choice are frozen. Raises UsageError for a layer that is not there, or bases that are missing."""
    by_layer: dict[str, Learner] = {}
    values: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    together: list[str] = []
    notes: list[str] = []
    for index, choice in enumerate(choices):
        layer = program.by_name.get(choice.layer)
        if layer is None:
            raise UsageError(f"the model has no layer {choice.layer!r} that can learn; it has {_some(list(program.by_name))}")
        if choice.layer in by_layer:
            raise UsageError(f"layer {choice.layer} is chosen twice; choose one way for it to learn")
        learner = _learner(layer, choice, calibration, seed + index, notes)
        if learner is None:
            continue
        by_layer[choice.layer] = learner
        for key in (learner.weight, learner.bias):
            if key is not None:
                values[key] = program.values[key].detach().clone()
        scales.update(_scales(layer, learner))
        if layer.shared:
            together += [key for key in (learner.weight, learner.bias) if key]
            notes.append(f"{layer.name} is used {len(layer.steps)} times, so its gradients are added up before it moves")
    return Learners(by_layer, values, scales, tuple(together), tuple(notes))


def _learner(layer: Layer, choice: Choice, calibration: Calibration | None, seed: int, notes: list[str]) -> Learner | None:
    if choice.method == "freeze":
        return None
    if choice.method == "bias":
        if layer.bias is None:
            notes.append(f"{layer.name} has no bias, so it stays frozen")
            return None
        return Learner(None, layer.bias)
    return Learner(layer.weight, layer.bias, _compressor(layer, choice, calibration, seed))


def _compressor(layer: Layer, choice: Choice, calibration: Calibration | None, seed: int) -> Compressor:
    match choice.method:
        case "exact" | "recompute":
            return compressors.exact(choice.factors)
    raise UsageError(f"layer {layer.name} cannot be treated by {choice.method!r} here; choose exact")


def _scales(layer: Layer, learner: Learner) -> dict[str, Tensor]:
    """s^2 of a folded batch norm, shaped for the weight and, where it is the convolution's own, for the bias."""
    if layer.fold is None:
        return {}
    square = layer.fold.scale**2
    found = {}
    if learner.weight is not None:
        found[learner.weight] = square.reshape(-1, *[1] * (len(layer.record.weight_shape) - 1))
    if learner.bias is not None and layer.fold.own_bias:
        found[learner.bias] = square
    return found


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def keys(by_layer: Mapping[str, Learner]) -> list[str]:
    """The keys of all values that move."""
    return [key for learner in by_layer.values() for key in (learner.weight, learner.bias, learner.adapter) if key is not None]
