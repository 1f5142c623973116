"""Steps bound to what runs them, in an order that frees every value with its last reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdk.training.nn.program import Step, TrainableProgram

Run = Callable[[Mapping[str, Any]], Any]
#: Steps whose value is a tensor of its own, which the one reader it has may overwrite.
FRESH = ("conv2d", "linear", "add", "mul", "batch_norm", "layer_norm", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d")


@dataclass(frozen=True)
class Bound:
    """One step as it runs: env -> value. dead: names that nobody reads after it."""

    name: str
    run: Run
    dead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the program. reads: values it takes from outside (no parameters, no sizes); gives: values it leaves behind."""

    bound: tuple[Bound, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    def __call__(self, env: dict[str, Any]) -> dict[str, Any]:
        """Runs on `env` (values by name; emptied as it goes) and returns what it gives."""
        for item in self.bound:
            env[item.name] = item.run(env)
            for name in item.dead:
                del env[name]
        return {name: env[name] for name in self.gives}


def section(steps: Sequence[Step], runs: Mapping[str, Run], program: TrainableProgram, gives: Sequence[str]) -> Section:
    """The section of these steps, each run by runs[step.name]."""
    names = {step.name for step in steps}
    constant = {*program.values, *(step.name for step in program.steps if step.kind == "scalar")}
    last = {ref: step.name for step in steps for ref in step.refs if ref not in constant}
    for step in steps:
        last.setdefault(step.name, step.name)
    kept = set(gives)
    dead: dict[str, list[str]] = {}
    for ref, name in last.items():
        if ref not in kept:
            dead.setdefault(name, []).append(ref)
    reads = tuple(dict.fromkeys(ref for step in steps for ref in step.refs if ref not in names and ref not in constant))
    bound = tuple(Bound(step.name, runs[step.name], tuple(dead.get(step.name, ()))) for step in steps)
    return Section(bound, reads, tuple(gives))


def live_steps(program: TrainableProgram, layers: Iterable[str], keys: Iterable[str] = ()) -> list[Step]:
    """The steps that a gradient reaches: those of the layers that learn or that read a value of `keys`, and all that depend on them."""
    learning, reached = set(layers), set(keys)
    live = []
    for step in program.steps:
        if step.kind != "scalar" and (step.layer in learning or reached.intersection(step.refs)):
            reached.add(step.name)
            live.append(step)
    return live


def overwritable(steps: Sequence[Step], gives: Iterable[str]) -> set[str]:
    """Names of steps that may write into their first argument: it was made within these steps, is no view, and nobody else reads it."""
    made = {step.name: step for step in steps}
    readers: dict[str, int] = {}
    for step in steps:
        for ref in step.refs:
            readers[ref] = readers.get(ref, 0) + 1
    kept = set(gives)
    found = set()
    for step in steps:
        first = step.refs[0] if step.refs else ""
        if first in made and made[first].kind in FRESH and readers[first] == 1 and first not in kept:
            found.add(step.name)
    return found


def sizes(program: TrainableProgram, batch: int) -> dict[str, int]:
    """The values of all steps that compute a size from the batch."""
    return {step.name: step.target(batch) for step in program.steps if step.kind == "scalar"}


def start(program: TrainableProgram, values: Mapping[str, Any], given: Mapping[str, Tensor], batch: int) -> dict[str, Any]:
    """An environment to run a section in."""
    return {**program.values, **values, **sizes(program, batch), **given}
