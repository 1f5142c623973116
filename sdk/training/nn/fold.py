"""Batch norms with stored statistics go into the convolution before them, with the scale kept that the updates need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sdk.training.nn.program import Fold, Ref, Step
from sdk.training.nn.reader import LOWERED


def folded(steps: Sequence[Step], values: Mapping[str, Tensor], output: str) -> tuple[list[Step], dict[str, Tensor], dict[str, Fold], list[str]]:
    """(steps, values, {weight key: Fold}, sentences). A batch norm stays where its convolution has other readers or shares its weight."""
    steps, values, folds, notes = list(steps), dict(values), {}, []  # type: ignore[var-annotated]
    uses = Counter(ref for step in steps for ref in step.refs)
    uses[output] += 1
    makers = {step.name: step for step in steps}
    taken: dict[str, Step] = {}
    names: dict[str, str] = {}
    for norm in (step for step in steps if step.kind == "batch_norm"):
        conv = _convolution_before(norm, makers, uses)
        if conv is None:
            notes.append(f"batch norm {norm.name} stays as scale and shift: what comes before it is no convolution that it alone reads")
            continue
        taken[conv.name] = norm
        names[norm.args[0].name] = norm.name  # what the norm read bears its name now
    kept = []
    for step in steps:
        if step.name in taken:
            step, new, fold = _fold(step, taken[step.name], values)
            values.update(new)
            folds[step.args[1].name] = fold
        if step.kind != "batch_norm" or step.name not in names.values():
            kept.append(replace(step, name=names.get(step.name, step.name)))
    read = {ref for step in kept for ref in step.refs}
    return kept, {name: value for name, value in values.items() if name in read}, folds, notes


def scale_and_shift(norm: Step, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(scale, shift) float64 [O] of a batch norm: y = scale * x + shift."""
    weight, bias, mean, variance = (values[arg.name].double() if isinstance(arg, Ref) else None for arg in norm.args[1:5])
    assert mean is not None and variance is not None  # stored statistics: the reader refused others
    scale = torch.rsqrt(variance + norm.args[5]) * (1.0 if weight is None else weight)
    return scale, (0.0 if bias is None else bias) - mean * scale


def _convolution_before(norm: Step, makers: Mapping[str, Step], uses: Mapping[str, int]) -> Step | None:
    """The convolution that the batch norm alone reads, directly or through the view of a 1-D one, with parameters that nobody shares."""
    name = norm.args[0].name if isinstance(norm.args[0], Ref) else ""
    while name in makers and uses[name] == 1:
        step = makers[name]
        parameters = [arg.name for arg in (*step.args[1:3], *norm.args[1:5]) if isinstance(arg, Ref)]
        if step.kind == "conv2d" and all(uses[key] == 1 for key in parameters):
            return step
        if step.target is not LOWERED:
            return None
        name = step.refs[0]
    return None


def _fold(conv: Step, norm: Step, values: Mapping[str, Tensor]) -> tuple[Step, dict[str, Tensor], Fold]:
    """The convolution that computes both; its new values; the scale."""
    weight, own = conv.args[1].name, conv.args[2]
    scale, shift = scale_and_shift(norm, values)
    w = values[weight]
    bias = shift + (values[own.name].double() * scale if own is not None else 0.0)
    key = own.name if own is not None else norm.args[2].name if isinstance(norm.args[2], Ref) else f"{weight}#shift"
    new = {weight: fold_weight(w, scale.to(w.dtype)), key: bias.to(w.dtype)}
    return replace(conv, args=(conv.args[0], conv.args[1], Ref(key), conv.args[3])), new, Fold(scale.to(w.dtype), own is not None)


def fold_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """weight [O, ...] times scale [O]."""
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
