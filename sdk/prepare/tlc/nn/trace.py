"""Sites: the activations of a traced network that may be removed, each with the layers around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.activations import name_of
from sdk.prepare.tlc.nn.canonical import Example, canonical
from sdk.prepare.tlc.nn.nodes import (
    BATCH_NORMS,
    ChannelAffine,
    called_once,
    is_add,
    is_dropout,
    is_flatten,
    is_linear,
    is_norm,
    is_pad,
    is_pool,
    module_of,
    operands,
    shape_of,
)

__all__ = ["Example", "Site", "canonical", "linear_ops", "norm_parameters", "sites"]


@dataclass(frozen=True)
class Site:
    """An activation and the layers around it: sources -> norm -> activation -> followers.

    name: its module in the canonical network, stable through every step of this package. kind: "bn" where a batch norm feeds it directly,
    so that beta and gamma tell how its input lies; "statistics" where the input must be measured (no batch norm, or a residual add between).
    sources: the linear ops whose sum it reads. followers: the linear ops that read it, through dropout, pooling, flatten and adds.
    exclusive: nothing else reads what lies between the one source and the activation, so OFF channels can be cut out there.
    stream: its output also goes into a residual add, which keeps every channel.
    """

    name: str
    activation: str
    kind: str
    sources: tuple[str, ...]
    norm: str | None
    followers: tuple[str, ...]
    channels: int
    channel_dim: int
    shape: tuple[int, ...]
    exclusive: bool
    stream: bool
    mergeable: bool = False
    why_not: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("bn", "statistics") or self.channel_dim not in (1, -1) or self.shape[self.channel_dim] != self.channels:
            raise UsageError(f"site {self.name}: kind {self.kind!r}, channel axis {self.channel_dim} and shape {self.shape} do not go together")


def linear_ops(module: fx.GraphModule) -> tuple[str, ...]:
    """Names of the convolutions and linear layers in order of computation, each once."""
    return tuple(dict.fromkeys(str(node.target) for node in module.graph.nodes if is_linear(module, node)))


def sites(module: fx.GraphModule) -> tuple[Site, ...]:
    """The activations that are still there and that linear ops feed, in order of computation.

    Not among them: gates (their output is multiplied), and activations whose input is no sum of linear ops.
    """
    from sdk.prepare.tlc.nn.segments import inside

    found = [site for node in module.graph.nodes if (site := _site(module, node)) is not None]
    return tuple(inside(module, found))


def _site(module: fx.GraphModule, node: fx.Node) -> Site | None:
    activation = name_of(module_of(module, node))
    shape = shape_of(node)
    if activation is None or shape is None or len(shape) < 2 or any(_multiplies(user) for user in node.users):
        return None
    sources = _sources(module, node.args[0])
    if not sources:
        return None
    last = _behind(module, node.args[0])
    norm = str(last.target) if is_norm(module, last) else None
    dim = -1 if len(shape) > 2 and isinstance(module_of(module, sources[0]), nn.Linear) else 1
    plain = isinstance(module_of(module, last), BATCH_NORMS)
    followers, stream = _followers(module, node)
    return Site(
        str(node.target), activation, "bn" if plain else "statistics", tuple(str(s.target) for s in sources), norm, followers,
        shape[dim], dim, shape, len(sources) == 1 and _exclusive(module, node, sources[0]), stream,
    )  # fmt: skip


def _multiplies(node: fx.Node) -> bool:
    return node.target in (torch.mul,) or getattr(node.target, "__name__", node.target) in ("mul", "imul", "mul_")


def _behind(module: fx.GraphModule, node: object) -> fx.Node:
    """The first node before, or at, `node` that computes something."""
    while isinstance(node, fx.Node) and is_dropout(module, node):
        node = node.args[0]
    if not isinstance(node, fx.Node):
        raise UsageError("an activation of a constant; take it out of the model's forward")
    return node


def _sources(module: fx.GraphModule, node: object) -> tuple[fx.Node, ...]:
    """The linear ops whose sum, normalised or not, is `node`; operands of an add that come from elsewhere are left out."""
    if not isinstance(node, fx.Node):
        return ()
    if is_linear(module, node):
        return (node,)
    if is_add(node):
        return tuple(dict.fromkeys(s for operand in operands(node) for s in _sources(module, operand)))
    if is_norm(module, node) or is_dropout(module, node) or is_pad(node) or isinstance(module_of(module, node), ChannelAffine):
        return _sources(module, node.args[0])
    return ()


def _exclusive(module: fx.GraphModule, node: fx.Node, source: fx.Node) -> bool:
    """True when every value from `source` up to `node` has one reader and no layer on the way is used twice."""
    step = node.args[0]
    while isinstance(step, fx.Node):
        if len(step.users) != 1 or is_add(step) or (step.op == "call_module" and not called_once(module, step.target)):
            return False
        if step is source:
            return True
        step = step.args[0]
    return False


def _followers(module: fx.GraphModule, node: fx.Node) -> tuple[tuple[str, ...], bool]:
    """(linear ops that read `node`, whether a residual add reads it)."""
    names: dict[str, None] = {}
    stream, todo, seen = False, list(node.users), set()
    while todo:
        user = todo.pop(0)
        if user in seen:
            continue
        seen.add(user)
        if is_linear(module, user):
            names[str(user.target)] = None
        elif is_add(user) or _passes(module, user):
            stream = stream or is_add(user)
            todo.extend(user.users)
    return tuple(names), stream


def _passes(module: fx.GraphModule, node: fx.Node) -> bool:
    return any((is_dropout(module, node), is_pad(node), is_pool(module, node), is_flatten(module, node), is_norm(module, node)))


def norm_parameters(module: fx.GraphModule, site: Site) -> tuple[Tensor, Tensor]:
    """(beta [C], gamma [C]) in float64 of the batch norm that feeds a "bn" site. Raises UsageError for any other site."""
    if site.kind != "bn" or site.norm is None:
        raise UsageError(f"no batch norm feeds {site.name} directly; measure its input on some batches instead")
    norm = module.get_submodule(site.norm)
    channels = torch.ones(site.channels, dtype=torch.float64)
    gamma, beta = norm.weight, norm.bias
    return (
        beta.detach().double().clone() if isinstance(beta, Tensor) else torch.zeros_like(channels),
        gamma.detach().double().clone() if isinstance(gamma, Tensor) else channels,
    )
