"""What ours is compared with: plain autograd, and the published method as its authors run it.

The published method (Nguyen et al., "Activation Map Compression through Tensor Decomposition", NeurIPS 2024) replaces the input
that a convolution keeps by a truncated HOSVD of it: per mode the left singular vectors of the unfolding that hold `eps` of the
energy. Its accounting counts the factors' values alone. Beside that stands what autograd really holds: the sliced singular
vectors keep their whole matrix, and batch norms and ReLUs keep what they always do. Written from the equations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Counted:
    """What the published accounting counts: values of the convolutions' inputs as they are, and of their factors."""

    input_bytes: int = 0
    factor_bytes: int = 0


@dataclass(frozen=True)
class PlainRun:
    """A net of which the last layers learn by plain autograd: frozen batch-norm statistics, the part before them without graph."""

    net: Any
    layers: tuple[str, ...]  # names of the layers that learn, in forward order
    parameters: tuple[Any, ...]
    counted: Counted = field(default_factory=Counted)


def layers_of(net: Any) -> list[str]:
    """Names of every convolution and linear layer, in the order in which they were made (that of the forward pass)."""
    from torch import nn

    return [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def last(net: Any, which: str) -> list[str]:
    """The layers of "all", "classifier" (the last one) or "last12" (the last 12 convolutions or linear layers, and the classifier)."""
    names = layers_of(net)
    count = {"all": len(names), "classifier": 1}.get(which) or int(which.removeprefix("last")) + 1
    return names[-count:]


def fit(run: PlainRun, x: Any, y: Any, order: Iterable[Any], rate: float, momentum: float = 0.9) -> Any:
    """The net after one step of SGD on each batch of `order` (index arrays), in evaluation mode."""
    import torch

    optimiser = torch.optim.SGD(run.parameters, lr=rate, momentum=momentum)
    for rows in order:
        loss = torch.nn.functional.cross_entropy(run.net(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return run.net


def plain(net: Any, names: Sequence[str], copied: bool = True) -> PlainRun:
    """A copy of `net`, or itself, in which the weights of `names`, and the biases of theirs and their batch norms', learn; nothing else does."""
    from torch import nn

    net = (copy.deepcopy(net) if copied else net).eval()
    for p in net.parameters():
        p.requires_grad_(False)
    modules = dict(net.named_modules())
    order = list(modules)
    behind = [modules[n] for n in order[order.index(names[0]) :] if isinstance(modules[n], nn.BatchNorm2d)]
    learn = [p for n in names for p in modules[n].parameters()] + [norm.bias for norm in behind]
    for p in learn:
        p.requires_grad_(True)
    return PlainRun(net, tuple(names), tuple(learn))


def official_hosvd(net: Any, names: Sequence[str], eps: float) -> PlainRun:
    """The same, with the published convolution for every one of `names` that is a convolution."""
    from torch import nn

    run = plain(net, names)
    modules = dict(run.net.named_modules())
    for name in names:
        if isinstance(modules[name], nn.Conv2d):
            parent, _, leaf = name.rpartition(".")
            setattr(modules[parent] if parent else run.net, leaf, _official_conv(modules[name], eps, run.counted))
    return run


def _official_conv(layer: Any, eps: float, counted: Counted) -> Any:
    import torch
    from torch import nn

    class Function(torch.autograd.Function):
        """Forward exact; the kept input is its truncated HOSVD; the input gradient is exact."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
            core, factors = truncated_hosvd(x, eps)
            counted.input_bytes += 4 * x.numel()
            counted.factor_bytes += 4 * (core.numel() + sum(u.numel() for u in factors))
            ctx.save_for_backward(core, *factors, weight)
            ctx.has_bias, ctx.shape = bias is not None, x.shape
            return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            (dy,), (core, *factors, weight) = grads, ctx.saved_tensors
            x = torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *factors)
            mask = (ctx.needs_input_grad[0], True, False)
            geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups, mask)
            dx, dw, _ = torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry)
            return dx, dw, dy.sum((0, 2, 3)) if ctx.has_bias else None

    class Published(nn.Module):
        """A convolution that keeps factors."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, x: Any) -> Any:
            return Function.apply(x, self.weight, self.bias)

    return Published()


def truncated_hosvd(x: Any, eps: float) -> tuple[Any, list[Any]]:
    """(core, factors): per mode the left singular vectors that hold `eps` of the energy, sliced from the full matrix as published."""
    import torch

    factors = []
    for mode in range(x.ndim):
        u, s, _ = torch.linalg.svd(x.movedim(mode, 0).reshape(x.shape[mode], -1), full_matrices=False)
        share = torch.cumsum(s.square(), 0) / s.square().sum()
        factors.append(u[:, : int((share < eps).sum()) + 1])
    core = x
    for u in factors:
        core = torch.tensordot(core, u, dims=([0], [0]))  # the mode in front goes to the back, four times: the order is kept
    return core.contiguous(), factors


def gradients(run: PlainRun, x: Any, y: Any) -> list[np.ndarray]:
    """Gradient of the loss for the weight of each learning layer, in their order; leaves none behind."""
    import torch

    loss = torch.nn.functional.cross_entropy(run.net(x), y)
    modules = dict(run.net.named_modules())
    found = torch.autograd.grad(loss, [modules[name].weight for name in run.layers])
    return [g.numpy() for g in found]


def step(run: PlainRun, x: Any, y: Any, rate: float, micro: int = 0) -> float:
    """One step of SGD on samples x, y; the loss before it. micro: samples at once, gradients added up; 0: all."""
    import torch

    size, total = micro or len(y), 0.0
    for i in range(0, len(y), size):
        loss = torch.nn.functional.cross_entropy(run.net(x[i : i + size]), y[i : i + size], reduction="sum") / len(y)
        loss.backward()
        total += loss.item()
        del loss
    with torch.no_grad():
        for p in run.parameters:
            p -= rate * p.grad
            p.grad = None
    return total


@contextmanager
def held_bytes(parameters: Sequence[Any]) -> Iterator[list[int]]:
    """Bytes of the storages that autograd keeps for a backward pass run inside the block, each counted once, parameters apart.

    Yields a list with the one figure, which grows while the forward pass runs.
    """
    import torch

    own = {p.untyped_storage().data_ptr() for p in parameters}
    seen: dict[int, Any] = {}
    total = [0]

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage  # held: a freed address must not be taken for the same storage
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def cosine(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Cosine of two lists of gradients taken as one long vector each."""
    dot = sum(float((u.astype(np.float64) * v).sum()) for u, v in zip(a, b, strict=True))
    norms = [np.sqrt(sum(float((u.astype(np.float64) ** 2).sum()) for u in one)) for one in (a, b)]
    return dot / max(norms[0] * norms[1], 1e-30)
