"""What is done with each layer of the trained part, resolved: bases, learning slices, and the variables that a step updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.bases import rank_for
from sdk.training.mcu.layers import Layer

#: Ways a layer can learn on a microcontroller.
METHODS = ("freeze", "bias", "adapter", "fixed", "channels", "exact")


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis [C, K] as flash holds it: float32, or int8 with one scale a column. `real` is what the device computes with."""

    real: np.ndarray = field(repr=False)  # [C, K] float32
    stored: np.ndarray = field(repr=False)  # [C, K] float32 or int8
    scale: tuple[float, ...] = ()  # of int8 columns

    @property
    def rank(self) -> int:
        """K."""
        return int(self.real.shape[1])


@dataclass(frozen=True)
class Treatment:
    """One layer and how it learns. `basis`: of an adapter (W + P U^T), of a fixed subspace, or the first `channels` unit vectors."""

    layer: Layer
    method: str
    basis: Basis | None = None
    channels: int = 0
    int8: bool = False  # the weights learn as the integers they are

    @property
    def trains(self) -> bool:
        """True when something of the layer learns."""
        return self.method != "freeze"

    @property
    def adapter(self) -> Basis | None:
        """The basis of what is added to the frozen weights; None where the weights themselves learn, or nothing."""
        return self.basis if self.method in ("adapter", "channels") else None


@dataclass(frozen=True)
class Variable:
    """Something that a step updates, or the host writes. `layer` and `part` say what of: "weight", "adapter", "bias", the "counter" of
    the noise that rounds int8 weights, or "hyper". `momentum`: the optimiser's own."""

    name: str
    layer: str
    part: str
    initial: np.ndarray = field(repr=False)
    momentum: bool = False

    @property
    def learns(self) -> bool:
        """True for what the model is made of, false for what only the optimiser reads."""
        return self.part in ("weight", "adapter", "bias") and not self.momentum

    @property
    def size_bytes(self) -> int:
        """Bytes in RAM."""
        return int(self.initial.nbytes)


HYPER = "hyper"


def treat(
    layers: Sequence[Layer], choices: Sequence[Choice], bases: Mapping[str, np.ndarray], spectra: Mapping[str, np.ndarray] = MappingProxyType({})
) -> tuple[Treatment, ...]:
    """A treatment for every layer, in the layers' order; a layer that no choice names is frozen.

    Raises UsageError for a layer that does not exist, a method that a microcontroller lacks, or an adapter on a depthwise layer.
    """
    names = {layer.name for layer in layers}
    for choice in choices:
        if choice.layer not in names:
            raise UsageError(f"no layer {choice.layer!r} can be trained; there are {', '.join(sorted(names))}")
    chosen = {choice.layer: choice for choice in choices}
    return tuple(_treat(layer, chosen.get(layer.name, Choice(layer.name, "freeze")), bases, spectra) for layer in layers)


def _treat(layer: Layer, choice: Choice, bases: Mapping[str, np.ndarray], spectra: Mapping[str, np.ndarray]) -> Treatment:
    if choice.method not in METHODS:
        raise UsageError(f"{layer.name} cannot be trained by {choice.method!r} on a microcontroller; choose one of {', '.join(METHODS)}")
    if layer.is_depthwise and choice.method in ("adapter", "fixed", "channels"):
        raise UsageError(f"{layer.name} is depthwise: its channels do not mix, so {choice.method!r} saves nothing there; choose exact, bias or freeze")
    match choice.method:
        case "adapter" | "fixed":
            return Treatment(layer, choice.method, _basis(layer, choice, bases, spectra))
        case "channels":
            depth = layer.weight.shape[-1]
            count = min(depth, max(1, round(choice.fraction * depth)))
            return Treatment(layer, "channels", make_basis(np.eye(depth)[:, :count], "int8"), count)
    return Treatment(layer, choice.method, int8=choice.method == "exact" and choice.factors == "int8" and layer.weight.dtype == "int8")


def _basis(layer: Layer, choice: Choice, bases: Mapping[str, np.ndarray], spectra: Mapping[str, np.ndarray]) -> Basis:
    if layer.name not in bases:
        raise UsageError(f"{layer.name} has no basis; give calibration data, from which it is learnt")
    full = bases[layer.name]
    given = next((rank for rank in choice.ranks if rank), 0)
    rank = given or (rank_for(spectra[layer.name], choice.eps) if layer.name in spectra else full.shape[1])
    return make_basis(full[:, : min(rank, full.shape[1])], choice.factors)


def make_basis(vectors: np.ndarray, factors: str = "float32") -> Basis:
    """The basis [C, K] as it is stored: "float32", or "int8" with a scale a column."""
    if factors != "int8":
        real = np.ascontiguousarray(vectors, np.float32)
        return Basis(real, real)
    scale = (np.abs(vectors).max(axis=0) / 127).astype(np.float32)
    if not np.any(vectors % 1):
        scale = np.ones_like(scale)  # unit vectors are integers already
    scale = np.where(scale > 0, scale, np.float32(1))
    stored = np.clip(np.rint(vectors / scale), -127, 127).astype(np.int8)
    return Basis((stored * scale).astype(np.float32), stored, tuple(float(s) for s in scale))


def variables_of(treatments: Sequence[Treatment], training: Training) -> tuple[Variable, ...]:
    """Every variable of a step in the layers' order, each followed by its momentum where there is one; last the hyper-parameters."""
    rows: list[Variable] = []
    for t in treatments:
        for part, initial in _learning(t):
            rows.append(Variable(f"{t.layer.name}.{part}", t.layer.name, part, initial))
            if training.optimiser == "momentum":
                rows.append(Variable(f"{t.layer.name}.{part}.momentum", t.layer.name, part, np.zeros(initial.shape, np.float32), True))
        if t.int8:
            rows.append(Variable(f"{t.layer.name}.counter", t.layer.name, "counter", np.zeros(1, np.int32), True))
    return (*rows, Variable(HYPER, "", "hyper", hyper_values(training)))


def hyper_values(training: Training) -> np.ndarray:
    """float32[4]: learning rate, momentum, 0, 0."""
    return np.array([training.learning_rate, training.momentum if training.optimiser == "momentum" else 0.0, 0.0, 0.0], np.float32)


def _learning(t: Treatment) -> list[tuple[str, np.ndarray]]:
    """(part, initial value) of what of a layer learns."""
    if not t.trains:
        return []
    parts = []
    weight = t.layer.real_weight()
    match t.method:
        case "adapter" | "channels":  # both start at the weights as they are: what is added starts at zero
            assert t.basis is not None
            parts.append(("adapter", np.zeros((*weight.shape[:-1], t.basis.rank), np.float32)))
        case "exact" | "fixed":
            parts.append(("weight", np.asarray(t.layer.weight.data) if t.int8 else weight))
    return parts if t.layer.bias is None else [*parts, ("bias", t.layer.real_bias())]
