"""Everything a run needs to go on as if it had never stopped: trained values, momentum, bases that follow the data, random states."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import UsageError

if TYPE_CHECKING:
    from sdk.training.nn.trainer import Trainer


def random_state() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, plain values) of torch's, numpy's and Python's global generators."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    arrays = {"torch": torch.get_rng_state().numpy(), "numpy": np.asarray(keys), "python": np.array(words, np.uint64)}
    return arrays, {"numpy": [kind, position, has_gauss, cached], "python": [version, gauss]}


def set_random_state(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> None:
    """The generators as `random_state` found them."""
    kind, position, has_gauss, cached = plain["numpy"]
    torch.set_rng_state(torch.from_numpy(arrays["torch"].copy()))
    np.random.set_state((kind, arrays["numpy"], position, has_gauss, cached))
    random.setstate((plain["python"][0], tuple(int(word) for word in arrays["python"]), plain["python"][1]))


def trained_arrays(trainer: Trainer) -> dict[str, np.ndarray]:
    """Views of everything that a step moves, by name."""
    found = {f"value/{key}": value.numpy() for key, value in trainer.updates.values.items()}
    found |= {f"velocity/{key}": value.numpy() for key, value in trainer.updates.velocities.items()}
    return found | {f"bases/{name}": tensor.numpy() for name, tensor in _bases(trainer)}


def plain_state(trainer: Trainer) -> dict[str, Any]:
    """Plain values that belong to `trained_arrays`: what was chosen, the step, what compressors count."""
    return {"steps": trainer.steps, "recipe": recipe(trainer), "counts": {name: _counts(c) for name, c in _compressors(trainer)}}


def restore(trainer: Trainer, arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> None:
    """The trainer as it was. Raises UsageError for a state of other choices or another optimiser."""
    if plain["recipe"] != recipe(trainer):
        raise UsageError("the checkpoint was written with other layers, methods or optimiser than are asked for now; delete it to start anew")
    with torch.no_grad():
        for kind, targets in (("value", trainer.updates.values), ("velocity", trainer.updates.velocities)):
            for key, value in targets.items():
                value.copy_(torch.from_numpy(arrays[f"{kind}/{key}"]))
    for name, compressor in _compressors(trainer):
        if hasattr(compressor, "carry"):
            prefix = f"bases/{name}/"
            compressor.carry({key.removeprefix(prefix): torch.from_numpy(array).clone() for key, array in arrays.items() if key.startswith(prefix)})
        vars(compressor).update(plain["counts"][name])
    trainer.steps = plain["steps"]


def snapshot(trainer: Trainer) -> list[tuple[Any, dict[str, Any]]]:
    """What compressors carry from batch to batch, by reference: they replace their bases, never write into them."""
    return [(compressor, dict(vars(compressor))) for _, compressor in _compressors(trainer)]


def take_back(before: list[tuple[Any, dict[str, Any]]]) -> None:
    """The compressors as `snapshot` found them."""
    for compressor, state in before:
        vars(compressor).update(state)


def recipe(trainer: Trainer) -> dict[str, Any]:
    """What must be the same for a run to go on: choices, batch, optimiser, seed."""
    t = trainer.training
    choices = [[c.layer, c.method, c.eps, list(c.ranks), c.fraction, c.factors] for c in trainer.choices]
    return {"choices": choices, "batch": t.batch, "optimiser": t.optimiser, "momentum": t.momentum, "seed": t.seed}


def _compressors(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    for name, learner in trainer.learners.items():
        if learner.compressor is not None:
            yield name, learner.compressor


def _bases(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """What compressors carry from batch to batch: bases that follow the data, fixed ones that may be renewed, directions to look in."""
    for name, compressor in _compressors(trainer):
        for key, basis in compressor.carried().items() if hasattr(compressor, "carried") else ():
            yield f"{name}/{key}", basis


def _counts(compressor: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(compressor).items() if key in ("captured", "refreshes", "_since")}
