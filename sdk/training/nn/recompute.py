"""Recomputation: a block keeps its input alone, and its inside is computed once more when the gradient arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdk.planner.training.blocks import ends
from sdk.training.nn.program import Ref, Step, TrainableProgram
from sdk.training.nn.sections import Run, Section, start


@dataclass(frozen=True)
class Block:
    """Steps between two places where the net has one value alone. inputs: what it reads from outside; layers: that learn in it or could."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]

    @property
    def output(self) -> str:
        """The one value that is read behind it."""
        return self.steps[-1].name

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in it."""
        return tuple(dict.fromkeys(step.layer for step in self.steps if step.layer))


def blocks(program: TrainableProgram, steps: Sequence[Step]) -> tuple[Block, ...]:
    """The steps in blocks, cut where `sdk.planner.training.blocks` says: the planner prices the same ones."""
    constant = {*program.values, *(step.name for step in program.steps if step.kind == "scalar")}
    found, begin = [], 0
    batched = [step.batch_axis is not None for step in steps]
    for end in ends([step.name for step in steps], [step.refs for step in steps], [step.sample_size for step in steps], batched):
        part = tuple(steps[begin:end])
        own = {step.name for step in part}
        reads = tuple(dict.fromkeys(ref for step in part for ref in step.refs if ref not in own and ref not in constant))
        found.append(Block(part, reads))
        begin = end
    return tuple(found)


def block_step(block: Block) -> Step:
    """The block as one step."""
    last = block.steps[-1]
    return Step(block.output, "plain", _never, tuple(Ref(name) for name in block.inputs), {}, last.shape, last.batch_axis)


def block_run(block: Block, program: TrainableProgram, values: Mapping[str, Tensor], quiet: Section, live: Section, anchor: Tensor) -> Run:
    """Runs the block by `quiet`, without a graph; when its gradient arrives, by `live` with one. values: what learns, as it is then."""

    def inside(section: Section, inputs: Sequence[Tensor]) -> Tensor:
        batch = next(value.shape[axis] for value, axis in zip(inputs, axes, strict=True) if axis is not None)
        given = dict(zip(block.inputs, inputs, strict=True))
        result: Tensor = section(start(program, values, given, batch))[block.output]
        return result

    known = {step.name: step.batch_axis for step in program.steps} | {program.input: 0}
    axes = [known[name] for name in block.inputs]
    return lambda env: _Recomputed.apply(anchor, inside, quiet, live, *(env[name] for name in block.inputs))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, inside: Callable[[Section, Sequence[Tensor]], Tensor], quiet: Section, live: Section, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.inside, ctx.live = inside, live
        return inside(quiet, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        inputs = [value.detach().requires_grad_(ctx.needs_input_grad[n + 4]) for n, value in enumerate(ctx.saved_tensors)]
        with torch.enable_grad():
            y = ctx.inside(ctx.live, inputs)
        torch.autograd.backward(y, dy)
        return None, None, None, None, *(value.grad for value in inputs)


def _never(*_: Any) -> Any:
    raise AssertionError("a block has its own run")
