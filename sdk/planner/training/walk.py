"""The program as the planner sees it: operations in order, what each reads and writes, and which values share their storage.

Made from `sdk.training.nn.program.TrainableProgram` without importing it: only names, kinds and shapes are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Kinds whose result lies where their input lies.
ALIASES = ("identity", "view")
#: Activations that run in place when nobody else reads their input: where gradients come by, and in front of that.
IN_PLACE = ("relu", "relu6", "hardswish", "hardsigmoid")
IN_PLACE_FROZEN = (*IN_PLACE, "silu", "add")
#: What may be overwritten: results in storage of their own.
FRESH = ("conv2d", "linear", "add", "mul", "batch_norm", "layer_norm", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d")
#: Plain operations that only look at their input in another way.
VIEW_NAMES = ("view", "reshape", "flatten", "_unsafe_view", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "slice", "select", "expand",
              "_up", "_down", "chunk", "split", "getitem", "alias", "detach")  # fmt: skip
#: Of these, and others, those that give a tuple of views.
TUPLE_VIEWS = ("chunk", "split", "split_with_sizes", "unbind", "tensor_split")


@dataclass(frozen=True)
class Op:
    """One operation. reads: names of the values it reads, weights left out. size: values of one sample's result. layer: index, or -1.

    batched: false where the result has no batch, so that `size` is all of it. features: length of the result's last axis.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    size: int
    layer: int = -1
    batched: bool = True
    features: int = 1

    def values(self, batch: int) -> int:
        """Values of the result of a batch."""
        return self.size * (batch if self.batched else 1)


@dataclass(frozen=True)
class Walk:
    """Operations in the order in which they run; `input` names the program's input, `input_size` its values a sample.

    weight_bytes: all parameters and buffers, and those with batch norms folded in. classes: of the logits. complete: no operation was left
    out because its result is no tensor of a known shape.
    """

    ops: tuple[Op, ...]
    input: str
    input_size: int
    weight_bytes: int
    classes: int = 0
    complete: bool = True

    @cached_property
    def by_name(self) -> dict[str, Op]:
        """Operations by the name of their result."""
        return {op.name: op for op in self.ops}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """For each value the positions of the operations that read it."""
        found: dict[str, list[int]] = {self.input: []}
        for at, op in enumerate(self.ops):
            found.setdefault(op.name, [])
            for name in op.reads:
                found[name].append(at)
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def storage(self) -> dict[str, str]:
        """For each value the value whose storage it lies in where gradients come by: its own, or that of what it looks at or overwrites."""
        return self._storages(IN_PLACE)

    @cached_property
    def frozen_storage(self) -> dict[str, str]:
        """The same in the part in front of the first layer that learns."""
        return self._storages(IN_PLACE_FROZEN)

    def _storages(self, in_place: Sequence[str]) -> dict[str, str]:
        owner = {self.input: self.input}
        for op in self.ops:
            first = op.reads[0] if op.reads else ""
            shares = op.kind in ALIASES or (op.kind in in_place and self._overwrites(first))
            owner[op.name] = owner[first] if shares and first else op.name
        return owner

    def _overwrites(self, name: str) -> bool:
        """True when the one reader of `name` may write over it."""
        return name in self.by_name and len(self.readers[name]) == 1 and self.by_name[name].kind in FRESH

    @cached_property
    def layer_at(self) -> dict[int, int]:
        """Layer index -> position of its (first) operation."""
        found: dict[int, int] = {}
        for at, op in enumerate(self.ops):
            if op.layer >= 0:
                found.setdefault(op.layer, at)
        return found

    def size_of(self, name: str, batch: int) -> int:
        """Bytes of a value of a batch, float32."""
        return 4 * (self.input_size * batch if name == self.input else self.by_name[name].values(batch))


def walk_of(program: Any) -> Walk:
    """The walk of a `TrainableProgram`."""
    index = {name: i for i, name in enumerate(program.by_name)}
    known = {program.input, *(step.name for step in program.steps if step.kind != "scalar" and step.shape is not None)}
    through = _through(program.steps, known)
    ops = tuple(_op(step, index, through) for step in program.steps if step.name in known)
    complete = all(step.kind == "scalar" or step.name in known or _name(step) in TUPLE_VIEWS for step in program.steps)
    size = 1
    for extent in program.input_shape:
        size *= extent
    return Walk(ops, program.input, size, _unique_bytes([*program.values.values(), *program.source.values()]), program.classes, complete)


def _through(steps: Sequence[Any], known: Set[str]) -> dict[str, tuple[str, ...]]:
    """Name -> the known values it stands for: itself, or what a step without a shape of its own (a tuple of views) reads."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in known}
    for step in steps:
        if step.name not in known and step.kind != "scalar":
            found[step.name] = tuple(name for ref in step.refs for name in found.get(ref, ()))
    return found


def _op(step: Any, index: Mapping[str, int], through: Mapping[str, tuple[str, ...]]) -> Op:
    reads = tuple(dict.fromkeys(name for ref in step.refs for name in through.get(ref, ())))
    return Op(step.name, _kind(step), reads, step.sample_size, index.get(step.layer, -1), step.batch_axis is not None, int((step.shape or (1,))[-1] or 1))


def _unique_bytes(tensors: Sequence[Any]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _kind(step: Any) -> str:
    """The step's kind; "view" for a plain operation that moves no values."""
    if step.kind != "plain":
        return str(step.kind)
    return "view" if _name(step) in VIEW_NAMES else "plain"


def _name(step: Any) -> str:
    """Name of the operation a step is, without its overload."""
    return str(getattr(step.target, "__name__", step.target)).split(".")[0]
