"""The supernets that ship with the package, by task, and what is known of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.prepare.moofa.space import Ladder, Subnet, from_json, ladder_from

if TYPE_CHECKING:
    from sdk.prepare.moofa.nn.elastic import Supernet
    from sdk.prepare.moofa.nn.plain import SubnetModule

FOLDER = Path(__file__).resolve().parent / "shipped"


@dataclass(frozen=True)
class Shipped:
    """A supernet of ours. `measured`: subnets with the accuracy they had on held-back pictures, statistics of their own."""

    task: str
    ladder: Ladder
    class_names: tuple[str, ...]
    facts: dict[str, Any] = field(repr=False)

    @property
    def measured(self) -> list[tuple[Subnet, float]]:
        """(subnet, share of right answers) of every subnet that was measured."""
        return [(from_json(self.ladder, row["subnet"]), row["accuracy"]) for row in self.facts.get("measured", [])]

    @property
    def shelf(self) -> list[tuple[Subnet, float]]:
        """(subnet, share of right answers) of those that are kept with statistics from real pictures."""
        return [(from_json(self.ladder, row["subnet"]), row["accuracy"]) for row in self.facts.get("shelf", [])]

    def whole(self, subnet: Subnet) -> SubnetModule | None:
        """A subnet of the shelf, ready to be used without any picture; None for any other."""
        from sdk.prepare.moofa.nn import shelf

        index = next((i for i, (net, _) in enumerate(self.shelf) if net == subnet), None)
        if index is None:
            return None
        module = self.load().extract(subnet)
        shelf.put(module, shelf.load(FOLDER / f"{self.task}_shelf.npz", index))
        return module

    def load(self) -> Supernet:
        """The weights, in evaluation mode."""
        from sdk.prepare.moofa.nn.store import load

        return load(FOLDER / self.task)[0]

    def samples(self) -> np.ndarray:
        """Pictures made from the weights alone: uint8 [n, R, R, 3]. They give int8 ranges where there are no others."""
        with np.load(FOLDER / f"{self.task}_samples.npz", allow_pickle=False) as pack:
            return np.asarray(pack["x"])


def tasks() -> tuple[str, ...]:
    """Names of the tasks that a shipped supernet knows."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def shipped(task: str) -> Shipped:
    """The supernet of a task. Raises UsageError with the tasks there are."""
    if task not in tasks():
        raise UsageError(f"task {task!r} is not known; choose from {', '.join(tasks())}, or give your own pictures with data=")
    facts = json.loads((FOLDER / f"{task}.json").read_text(encoding="utf-8"))
    return Shipped(task, ladder_from(facts["ladder"]), tuple(facts["class_names"]), facts)
