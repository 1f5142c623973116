"""From a method's name to a trainer that learns by it: "fixed@0.8" is fixed subspaces that keep 0.8; "fixed" alone at an eps to be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

METHODS = ("exact", "fixed", "asi", "hosvd", "svd", "adapter")
EPS = 0.9
#: Where no eps is said, the first of these with a gradient cosine of COSINE or more is taken.
GRID, COSINE = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98), 0.87


@dataclass(frozen=True)
class Learning:
    """Everything that trainers of one net share: its program, what a calibration run saw of it, the layers that learn."""

    program: Any
    calibration: Any
    names: tuple[str, ...]


def parsed(method: str) -> tuple[str, float]:
    """("fixed", 0.8) of "fixed@0.8"; eps 0.9 where none is said. Raises ValueError for a method that there is not."""
    name, _, eps = method.partition("@")
    if name not in METHODS:
        raise ValueError(f"method {name!r} is not known; choose from {', '.join(METHODS)}, and an eps behind @ where you want one")
    return name, float(eps) if eps else EPS


def learning(net: Any, known: Sequence[tuple[Any, Any]], names: Sequence[str]) -> Learning:
    """Read the net and calibrate these layers on batches (x, y) of what it was trained on: a host does this before the device is flashed."""
    from sdk.training.nn.calibrate import calibrate
    from sdk.training.nn.program import read_program

    program = read_program(net, known[0][0][:2])
    return Learning(program, calibrate(program, known, (), (), names), tuple(names))


def trainer(with_: Learning, method: str, training: Any) -> Any:
    """A fresh trainer of these layers by `method`. Without undo: plain autograd, which it is compared with, has none either."""
    from sdk.training.nn.trainer import Trainer

    return Trainer(with_.program, choices(with_, method, training), with_.calibration, training, undo=False)


def choices(with_: Learning, method: str, training: Any) -> list[Any]:
    """One choice for each layer that learns, with the ranks that the calibration gives, held as `training` says.

    Fixed subspaces share the eps among the layers, as a plan of named layers does. Adapters replace weights of many channels; depthwise
    layers, which have few weights, keep fixed subspaces of their inputs beside them.
    """
    from sdk.planner.training.kept import planned_ranks
    from sdk.planner.training.records import Choice
    from sdk.training.nn.calibration import ranks_for, shared_ranks

    name, eps = parsed(method)
    if name == "exact":
        return [Choice(layer) for layer in with_.names]
    records = [with_.calibration.record(layer) for layer in with_.names]
    if name == "fixed":
        shares = shared_ranks(records, eps).items()
        return [Choice(layer, name, share, ranks, factors=training.factors_of(name)) for layer, (share, ranks) in shares]
    found = []
    for record in records:
        own = "fixed" if name == "adapter" and record.groups > 1 else name
        ranks = ranks_for(record, own, eps) or planned_ranks(record, own, eps, training.micro_batch or training.batch)
        found.append(Choice(record.name, own, eps, ranks, factors=training.factors_of(own)))
    return found


def batched(x: Any, y: Any, size: int = 32) -> list[tuple[Any, Any]]:
    """x [n, ...], y [n] in batches of `size`."""
    import torch

    data, labels = torch.as_tensor(x), torch.as_tensor(y)
    return [(data[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]
