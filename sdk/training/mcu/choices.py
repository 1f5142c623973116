"""What learns when nobody says: the classifier, whole where it fits, and adapters on as many of the last layers as fit behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.auto import auto_choices
from sdk.training.mcu.bases import rank_for
from sdk.training.mcu.layers import Layer, by_name, find_layers

if TYPE_CHECKING:
    from sdk.planner.mcu_training import TrainedLayer, TrainingUse
    from sdk.training.mcu.plan import Learner


def default_choices(learner: Learner) -> list[Choice]:
    """What `training.layers` and `training.method` ask for; "auto" takes as many layers as fit the device and the budget."""
    layers = find_layers(learner.graph)
    training = learner.training
    asked = training.layers
    if asked == "auto":
        return auto_choices(learner)
    if asked == "all":
        return [_choice(learner, layer) for layer in layers if _learns(layer, training)]
    names = list(asked) if not isinstance(asked, str) else _named(asked, layers)
    return [_choice(learner, by_name(layers, name)) for name in names]


def _named(asked: str, layers: Sequence[Layer]) -> list[str]:
    """The layers that "classifier", "last4" or one name means."""
    if asked == "classifier":
        return [layers[-1].name]
    if match := re.fullmatch(r"last(\d+)", asked):
        return [layer.name for layer in layers if not layer.is_depthwise][-int(match.group(1)) :]
    if any(asked == layer.name for layer in layers):
        return [asked]
    raise UsageError(f"training layers {asked!r} are not known; give auto, all, classifier, last4 (any number), or names of layers")


def _learns(layer: Layer, training: Training) -> bool:
    """Depthwise layers have too few weights to be worth what they would have to keep, unless everything is to learn exactly."""
    return not layer.is_depthwise or training.method in ("exact", "bias")


def _choice(learner: Learner, layer: Layer) -> Choice:
    """How one layer learns: by the method asked for, else an adapter, and the classifier by all its weights."""
    training = learner.training
    last = layer.name == find_layers(learner.graph)[-1].name
    method = training.method if training.method != "auto" else "exact" if last or layer.name not in learner.spectra else "adapter"
    if layer.is_depthwise and method in ("adapter", "fixed"):
        method = "bias"
    if method in ("adapter", "fixed") and layer.name in learner.spectra:
        return Choice(layer.name, method, ranks=(0, 0, rank_for(learner.spectra[layer.name], training.eps)))
    return Choice(layer.name, method)


def choices_of(use: TrainingUse) -> list[Choice]:
    """The choices that a plan was made with: `learner(...).plan(choices_of(plan.training))` is that plan again."""
    rows = []
    for layer in use.trained:
        factors = "int8" if layer.stored == "int8" and layer.method != "channels" else "float32"
        ranks = (0, 0, layer.rank) if layer.method in ("adapter", "fixed") else ()
        rows.append(Choice(layer.name, layer.method, ranks=ranks, factors=factors, fraction=_fraction(use, layer)))
    return rows


def _fraction(use: TrainingUse, layer: TrainedLayer) -> float:
    """The share of input channels that learn; 1 where all do."""
    if layer.method != "channels" or use.graph is None:
        return 1.0
    return layer.channels / by_name(find_layers(use.graph), layer.name).weight.shape[-1]
