"""A layer's weights solved anew by least squares, so that it gives what it gave before an activation in front of it was removed.

min over W, b of  sum |W x' + b - y|^2 + ridge * sum_i A_ii |w_i - w0_i|^2,  x' its input now, y its output in the network before, w0 its weights now.
No training: one pass over some batches and one linear system. The ridge is relative to each column's own energy A_ii, so inputs that never vary keep
their weights. Least squares for what a removed unit leaves behind is an old remedy (Hassibi and Stork, Optimal Brain Surgeon, 1993; He et al.,
Channel Pruning, ICCV 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sdk.errors import DataError, UsageError
from sdk.prepare.tlc.nn.nodes import BATCH_NORMS, LINEAR, called_once

Batch = Tensor | tuple[Tensor, ...]
_CHUNK = 4096  # rows that are spread out at a time


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations, group by group, float64: squares [G, D + 1, D + 1] = X'X, products [G, D + 1, O / G] = X'Y; the last column of X is one."""

    squares: Tensor
    products: Tensor

    def plus(self, x: Tensor, y: Tensor) -> Normal:
        """With more rows: x [R, G, D], y [R, G, O / G]."""
        ones = torch.ones(*x.shape[:2], 1, dtype=torch.float64, device=x.device)
        columns = torch.cat([x.double(), ones], 2).transpose(0, 1)  # [G, R, D + 1]
        across = columns.transpose(1, 2)
        return Normal(self.squares + across @ columns, self.products + across @ y.double().transpose(0, 1))

    def solve(self, start: Tensor, ridge: float) -> Tensor:
        """[G, D + 1, O / G], pulled towards `start`, of the same shape."""
        energy = self.squares.diagonal(dim1=1, dim2=2)
        damping = ridge * energy + 1e-12 * energy.amax(1, keepdim=True) + torch.finfo(torch.float64).tiny
        step: Tensor = torch.linalg.solve(self.squares + torch.diag_embed(damping), self.products - self.squares @ start)
        return start + step


@torch.no_grad()
def refit(
    module: fx.GraphModule, reference: fx.GraphModule, op: str, batches: Iterable[Batch], *, ridge: float = 1e-3, rows: int = 20000, seed: int = 0
) -> fx.GraphModule:  # fmt: skip
    """A copy of `module` in which the linear op `op` comes as near as it can to its own output in `reference`, on `batches`.

    batches: inputs of the network, [N, ...] each. rows: about how many places in all (pixels, tokens) the system is made of, drawn at random;
    never fewer than four for each unknown where the data have them. A layer without a bias gets one, or the batch norm behind it takes it.
    Where `repad` made the output larger than it was, its middle counts.
    Raises UsageError for an op that is not there or is called twice, DataError for no batches or values that are not finite.
    """
    made = copy.deepcopy(module)
    layer, source = _layer(made, op), _layer(reference, op)
    data = list(batches)
    if not data:
        raise DataError(f"refitting {op} needs at least one batch of inputs; none was given")
    places = max(rows, 4 * (layer.weight[0].numel() + 1)) // len(data) + 1
    start = _packed(layer)
    normal = Normal(start.new_zeros(len(start), start.shape[1], start.shape[1]), torch.zeros_like(start))
    generator = torch.Generator().manual_seed(seed)
    shift = _moved(made, reference, op, layer)  # [O, 1, ...]
    for batch in data:
        x = stop_at(made, layer, batch)[0]
        y = stop_at(reference, source, batch)[1] + shift
        for some_x, some_y in _rows(layer, x, y, places, generator):
            normal = normal.plus(some_x, some_y)
    solved = normal.solve(start, ridge)
    if not bool(torch.isfinite(solved).all()):
        raise DataError(f"refitting {op} met values that are not finite; look for NaN or infinity in the data or the weights")
    _write(made, op, solved)
    return made


def with_bias(module: fx.GraphModule, op: str) -> fx.GraphModule:
    """A copy in which a linear op has a bias, zero where it had none."""
    made = copy.deepcopy(module)
    layer = _layer(made, op)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)).detach())
    return made


def _layer(module: fx.GraphModule, op: str) -> nn.Conv1d | nn.Conv2d | nn.Linear:
    layer = dict(module.named_modules()).get(op)
    if not isinstance(layer, LINEAR):
        raise UsageError(f"cannot refit {op!r}: it is no convolution or linear layer of this network; take one of `linear_ops`")
    if not called_once(module, op):
        raise UsageError(f"cannot refit {op!r}: the network calls it more than once; refit layers that have weights of their own")
    return layer


class _Reached(Exception):
    """Thrown in a hook to end a forward pass whose rest is of no use."""


def stop_at(module: nn.Module, layer: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(input, output) of one layer of a network in evaluation mode, nothing after it computed; a layer that is called once."""
    held: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        held.append((inputs[0], output))
        raise _Reached

    modes = {each: each.training for each in module.modules()}
    handle = layer.register_forward_hook(hook)
    try:
        module.eval()(*(batch if isinstance(batch, tuple) else (batch,)))
    except _Reached:
        pass
    finally:
        handle.remove()
        for each, mode in modes.items():
            each.training = mode
    return held[0]


def _rows(layer: nn.Conv1d | nn.Conv2d | nn.Linear, x: Tensor, y: Tensor, count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of x [R, G, D], y [R, G, O / G] at up to `count` random places."""
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, nn.Linear):
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        for some in _drawn(len(flat_x), count, generator):
            yield flat_x[some][:, None], flat_y[some][:, None]
        return
    patches = _Patches.of(layer, x)
    margins = [(a - b) // 2 for a, b in zip(patches.sizes, y.shape[2:], strict=True)]
    sizes = tuple(min(a, b) for a, b in zip(patches.sizes, y.shape[2:], strict=True))
    for some in _drawn(len(x) * _product(sizes), count, generator):
        n, *place = torch.unravel_index(some, (len(x), *sizes))
        here = [p + max(m, 0) for p, m in zip(place, margins, strict=True)]
        there = [p + max(-m, 0) for p, m in zip(place, margins, strict=True)]
        yield patches.at(n, here).view(len(n), groups, -1), _picked(y, n, there).view(len(n), groups, -1)


def _drawn(total: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(total, generator=generator)[:count]
    yield from order.split(_CHUNK)


@dataclass(frozen=True, eq=False)
class _Patches:
    """What a convolution reads at each place: x padded [N, C, ...], window, step and spread for each axis, and the output's size."""

    x: Tensor
    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> _Patches:
        given = layer.padding
        sides = layer._reversed_padding_repeated_twice if isinstance(given, str) else [p for p in reversed(given) for _ in range(2)]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return cls(nn.functional.pad(x, sides, mode), layer.kernel_size, layer.stride, layer.dilation)

    @property
    def sizes(self) -> list[int]:
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return [(size - span) // s + 1 for size, span, s in zip(self.x.shape[2:], spans, self.stride, strict=True)]

    def at(self, n: Tensor, place: Sequence[Tensor]) -> Tensor:
        """[R, C, *kernel] at pictures n [R] and places [R] along each axis."""
        axes = len(self.kernel)
        reach = [p[:, None] * s + torch.arange(k) * d for p, s, k, d in zip(place, self.stride, self.kernel, self.dilation, strict=True)]
        index = [r.view(len(n), *(-1 if a == axis else 1 for a in range(axes))) for axis, r in enumerate(reach)]
        return _picked(self.x, n.view(-1, *[1] * axes), index).movedim(-1, 1).contiguous()


def _picked(x: Tensor, n: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Every channel of x [N, C, ...] at pictures `n` and `places` along the other axes, which broadcast: [..., C]."""
    return x.movedim(1, -1)[(n, *places)]


def _product(sizes: Sequence[int]) -> int:
    return int(torch.Size(sizes).numel())


def _packed(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> Tensor:
    """The layer's weights and bias as [G, D + 1, O / G], float64."""
    groups, weight = getattr(layer, "groups", 1), layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    rows = torch.cat([weight.flatten(1), bias[:, None]], 1)
    return rows.view(groups, -1, rows.shape[1]).transpose(1, 2).contiguous()


def _write(made: fx.GraphModule, op: str, solved: Tensor) -> None:
    layer = _layer(made, op)
    rows = solved.transpose(1, 2).flatten(0, 1)
    layer.weight.copy_(rows[:, :-1].view_as(layer.weight))
    bias = rows[:, -1].to(layer.weight)
    norm = _norm_behind(made, op)
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif norm is not None:
        norm.running_mean -= bias  # type: ignore[operator]
    else:
        layer.bias = nn.Parameter(bias.clone())


def _moved(made: fx.GraphModule, reference: fx.GraphModule, op: str, layer: nn.Module) -> Tensor:
    """What the batch norm behind takes away here and not in the reference: an earlier refit may have left a bias in its mean."""
    here, there = _norm_behind(made, op), _norm_behind(reference, op)
    if here is None or there is None:
        return torch.zeros(())
    moved: Tensor = here.running_mean - there.running_mean  # type: ignore[operator]
    return moved.view(-1, *[1] * len(getattr(layer, "kernel_size", ())))


def _norm_behind(made: fx.GraphModule, op: str) -> nn.Module | None:
    """The batch norm that alone reads the op: its mean takes a bias, and in training it would take away any other."""
    node = next(n for n in made.graph.nodes if n.op == "call_module" and n.target == op)
    readers = [made.get_submodule(str(user.target)) for user in node.users if user.op == "call_module"]
    alone = len(node.users) == 1 and len(readers) == 1 and isinstance(readers[0], BATCH_NORMS) and isinstance(readers[0].running_mean, Tensor)
    return readers[0] if alone and called_once(made, next(iter(node.users)).target) else None
