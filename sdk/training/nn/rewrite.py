"""What runs each step: the plain operation where no gradient comes by, and where one does, the one that keeps least for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sdk.training.nn import activations, functions, lean
from sdk.training.nn.factors import Held
from sdk.training.nn.fold import scale_and_shift
from sdk.training.nn.program import Ref, Step, TrainableProgram, run_step
from sdk.training.nn.saved import Compressor
from sdk.training.nn.sections import Run
from sdk.training.nn.update import Updates

#: Activations of ours that may write their result into their argument.
MASKED: dict[str, Callable[..., Tensor]] = {
    "relu": activations.relu, "relu6": activations.relu6, "hardswish": activations.hardswish, "hardsigmoid": activations.hardsigmoid,
}  # fmt: skip
_INPLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_, "relu6": lambda x: F.relu6(x, inplace=True), "hardswish": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True), "silu": lambda x: F.silu(x, inplace=True),
}  # fmt: skip


@dataclass(frozen=True)
class Learner:
    """How a layer learns in its steps. weight, bias: keys that its sink moves, None for what stays. compressor None: the weight stays.

    adapter: key of P, beside its basis U. channels: of the input, that learn. plain: keys that learn by plain autograd."""

    weight: str | None
    bias: str | None
    compressor: Compressor | None = None
    adapter: str | None = None
    basis: Held | None = None
    channels: int = 0
    plain: tuple[str, ...] = ()


def frozen_run(step: Step, overwrite: bool) -> Run:
    """A step without gradients; an activation works in place where its argument dies."""
    if overwrite and step.kind in _INPLACE:
        inplace, first = _INPLACE[step.kind], step.refs[0]
        return lambda env: inplace(env[first])
    if overwrite and step.kind == "add" and not step.kwargs and len(step.refs) == 2:
        a, b = step.refs
        return lambda env: env[a].add_(env[b]) if env[a].shape == env[b].shape else env[a] + env[b]
    return plain_run(step)


def plain_run(step: Step) -> Run:
    """A step as torch computes it, under autograd where one is recorded."""
    return lambda env: run_step(step, env, 0)


def live_run(step: Step, program: TrainableProgram, learner: Learner | None, updates: Updates, anchor: Tensor, overwrite: bool) -> Run:
    """A step that a gradient reaches. A step that reads a value which learns by plain autograd runs as torch has it."""
    if step.kind == "conv2d":
        return _convolution(step, learner, updates, anchor)
    if step.kind == "linear":
        return _linear(step, learner, updates, anchor)
    if step.kind in MASKED:
        act, first = MASKED[step.kind], step.refs[0]
        return lambda env: act(env[first], overwrite)
    if step.kind in ("gelu", "silu") and len(step.args) == 1:
        act, options, first = (activations.gelu if step.kind == "gelu" else activations.silu), dict(step.kwargs), step.refs[0]
        return lambda env: act(env[first], **options)
    if step.kind == "batch_norm":
        return _norm(step, program)
    if step.kind in lean.KINDS:
        return lean.run(step)
    return plain_run(step)


def _convolution(step: Step, learner: Learner | None, updates: Updates, anchor: Tensor) -> Run:
    x, weight, bias, geometry = step.args
    get_bias = _getter(bias)
    if learner is None or learner.compressor is None:
        key = learner.bias if learner else None
        sink = updates.sink(None, key) if key else None
        return lambda env: functions.frozen_conv2d(env[x.name], widened(env[weight.name]), get_bias(env), geometry, sink, anchor if sink else None)
    compressor, basis, p = learner.compressor, learner.basis, learner.adapter
    if p is not None and basis is not None:
        take = updates.sink(p, learner.bias)
        return lambda env: functions.adapter_conv2d(
            env[x.name], widened(env[weight.name]), get_bias(env), widened(env[p]), basis, geometry, take, anchor, compressor)  # fmt: skip
    sink = updates.sink(learner.weight, learner.bias)
    return lambda env: functions.conv2d(env[x.name], widened(env[weight.name]), get_bias(env), geometry, compressor, sink, anchor)


def _linear(step: Step, learner: Learner | None, updates: Updates, anchor: Tensor) -> Run:
    x, weight, bias = step.args
    get_bias = _getter(bias)
    if learner is None or learner.compressor is None:
        key = learner.bias if learner else None
        sink = updates.sink(None, key) if key else None
        return lambda env: functions.frozen_linear(env[x.name], env[weight.name], get_bias(env), sink, anchor if sink else None)
    compressor, basis, p = learner.compressor, learner.basis, learner.adapter
    if p is not None and basis is not None:
        take = updates.sink(p, learner.bias)
        return lambda env: functions.adapter_linear(env[x.name], env[weight.name], get_bias(env), env[p], basis, take, anchor, compressor)
    sink = updates.sink(learner.weight, learner.bias)
    return lambda env: functions.linear(env[x.name], env[weight.name], get_bias(env), compressor, sink, anchor)


def _norm(step: Step, program: TrainableProgram) -> Run:
    """A batch norm that could not be folded: scale and shift, of which only the scale is kept."""
    scale, shift = (v.float() for v in scale_and_shift(step, program.values))
    first = step.refs[0]
    return lambda env: activations.scale_shift(env[first], scale, shift)


def _getter(bias: Ref | None) -> Callable[[Mapping[str, Any]], Tensor | None]:
    if bias is None:
        return lambda env: None
    name = bias.name
    return lambda env: env[name]


def widened(weight: Tensor) -> Tensor:
    """A weight [O, I, k] as [O, I, 1, k]."""
    return weight.unsqueeze(2) if weight.dim() == 3 else weight

