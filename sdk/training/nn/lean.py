"""Pools and attention, bound to versions that keep less for backward than torch's own; where an argument is unusual, torch's own runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdk.training.nn.attention import scaled_dot_product_attention
from sdk.training.nn.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from sdk.training.nn.program import Ref, Step, resolve, run_step
from sdk.training.nn.sections import Run

KINDS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "attention")
#: Arguments behind the input and what torch takes for those left out.
_POOLS: Mapping[str, tuple[Any, ...]] = {
    "max_pool2d": (None, (), 0, 1, False),
    "avg_pool2d": (None, (), 0, False, True, None),
    "adaptive_avg_pool2d": (None,),
}


def run(step: Step) -> Run:
    """What runs a step of one of KINDS under autograd."""
    plain: Run = lambda env: run_step(step, env, 0)  # noqa: E731
    if step.kwargs or len(step.shape or ()) != 4:
        return plain
    if step.kind == "attention":
        return _attention(step) or plain
    given = resolve(step.args[1:], {}) if not any(isinstance(arg, Ref) for arg in step.args[1:]) else ()
    rest = (*given, *_POOLS[step.kind][len(given) :])
    if not given or rest[0] is None or not isinstance(step.args[0], Ref):
        return plain
    first, kernel = step.args[0].name, pair(rest[0])
    if step.kind == "adaptive_avg_pool2d":
        return plain if None in kernel else lambda env: adaptive_avg_pool2d(env[first], kernel)
    stride, padding = pair(rest[1] or rest[0]), pair(rest[2])
    if step.kind == "max_pool2d":
        dilation, ceil_mode = pair(rest[3]), bool(rest[4])
        return lambda env: max_pool2d(env[first], kernel, stride, padding, dilation, ceil_mode)
    ceil_mode, include = bool(rest[3]), bool(rest[4])
    return plain if rest[5] is not None else lambda env: avg_pool2d(env[first], kernel, stride, padding, ceil_mode, include)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of one number, or of a sequence of one or two."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _attention(step: Step) -> Run | None:
    """Attention without dropout over [B, heads, L, d]; None where it is another."""
    query, key, value, *rest = step.args
    mask = rest[0] if rest else None
    if len(rest) > 1 and rest[1]:
        return None
    causal = bool(rest[2]) if len(rest) > 2 else False

    def attend(env: Mapping[str, Any]) -> Tensor:
        bias = env[mask.name] if isinstance(mask, Ref) else None
        if isinstance(bias, torch.Tensor) and bias.requires_grad:  # a learned bias needs its gradient
            return torch.nn.functional.scaled_dot_product_attention(env[query.name], env[key.name], env[value.name], bias, 0.0, causal)
        return scaled_dot_product_attention(env[query.name], env[key.name], env[value.name], bias, causal)

    return attend
