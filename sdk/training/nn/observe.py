"""One batch through a program whose layers show their input and the gradient of their output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.training.nn import sections
from sdk.training.nn.conv_grad import conv_input_grad, convolution
from sdk.training.nn.linear_grad import linear_input_grad
from sdk.training.nn.program import Step, TrainableProgram
from sdk.training.nn.rewrite import live_run, widened
from sdk.training.nn.update import Updates

#: step, input, gradient of the output
Visit = Callable[[Step, Tensor, Tensor], None]


def visit_layers(program: TrainableProgram, x: Tensor, y: Tensor | None, visits: Mapping[str, Visit]) -> None:
    """Runs one batch; with labels backward too, and then a layer's visit sees its input and its output's gradient, else its input alone."""
    anchor = torch.zeros((), requires_grad=True)
    idle = Updates({}, {}, 1.0)
    steps = [step for step in program.steps if step.kind != "scalar"]
    runs = {
        s.name: _observed(s, visits[s.layer], anchor, y is not None) if s.layer in visits else live_run(s, program, None, idle, anchor, False) for s in steps
    }
    part = sections.section(steps, runs, program, (program.output,))
    logits = part(sections.start(program, {}, {program.input: x}, x.shape[0]))[program.output]
    if y is not None:
        F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]


def _observed(step: Step, visit: Visit, anchor: Tensor, backward: bool) -> sections.Run:
    x, weight, bias = step.args[:3]

    def run(env: Mapping[str, Any]) -> Any:
        if not backward:
            visit(step, env[x.name], env[x.name])
        return _Observed.apply(env[x.name], widened(env[weight.name]), None if bias is None else env[bias.name], anchor, step, visit)

    return run


class _Observed(torch.autograd.Function):
    """A layer that shows its input and its output's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, step: Step, visit: Visit) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.step, ctx.visit = step, visit
        return F.linear(x, weight, bias) if step.kind == "linear" else convolution(x, weight, bias, step.args[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        ctx.visit(ctx.step, x, dy)
        if not ctx.needs_input_grad[0]:
            return (None,) * 6
        dx = linear_input_grad(dy, weight) if ctx.step.kind == "linear" else conv_input_grad(dy, weight, x.shape, ctx.step.args[3])
        return dx, None, None, None, None, None
