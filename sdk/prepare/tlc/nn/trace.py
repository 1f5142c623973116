"""A network in canonical form, and its sites: the activations that may be removed, each with the layers around it, found by torch.fx."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.activations import name_of, spelled
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

Example = Tensor | tuple[Tensor, ...]


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


class _Tracer(fx.Tracer):
    """torch.nn and our own stand-ins are leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelAffine) or super().is_leaf_module(m, module_qualified_name)


def canonical(model: nn.Module, example: Example) -> fx.GraphModule:
    """The same network, traced in evaluation mode, every activation call a module of its own; weights are copies.

    example: input(s) [N, ...]; shapes are kept for its first sample. Raises UsageError when the model cannot be traced, does not
    take the example, or computes something else once traced.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    source = copy.deepcopy(model).eval()
    made = source if isinstance(source, fx.GraphModule) else _traced(source)
    _respell(made)
    made.meta["example"] = tuple((tuple(x[:1].shape), x.dtype) for x in inputs)
    _same(source, made, tuple(x[:1] for x in inputs))
    reshape(made)
    return made


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:  # fx raises whatever the model's own code does with a placeholder
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"cannot trace {type(model).__name__}: {reason}; layers are found by torch.fx, so write its forward without branches on the values of its input"
        ) from error


def _respell(made: fx.GraphModule) -> None:
    """Every activation, however written, becomes a module that only one node calls."""
    seen: set[str] = set()
    for node in list(made.graph.nodes):
        layer = spelled(made, node)
        if layer is None:
            continue
        _read_after(node)
        name = _free_name(made, node, seen)
        seen.add(name)
        made.add_submodule(name, layer)
        node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}
    made.graph.lint()
    made.recompile()


def _read_after(node: fx.Node) -> None:
    """An activation that works in place changes what later nodes read; out of place they must be given its result."""
    source = node.args[0]
    later = set(_following(node))
    if isinstance(source, fx.Node) and node.meta.get("inplace"):
        source.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)


def _following(node: fx.Node) -> Iterator[fx.Node]:
    after = node.next
    while after.op != "root":
        yield after
        after = after.next


def _free_name(made: fx.GraphModule, node: fx.Node, seen: set[str]) -> str:
    """The module's own name at its first call; else its function's in the module that calls it, numbered where that is taken."""
    if node.op == "call_module" and node.target not in seen:
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {"": None}
    owner = "" if node.op == "call_module" else str(list(stack)[-1])
    base = str(node.target) if node.op == "call_module" else ".".join(p for p in (owner, node.meta["spelling"]) if p)
    taken = {name for name, _ in made.named_modules()} | seen
    return next(name for n in range(1, len(taken) + 2) if (name := base if n == 1 else f"{base}_{n}") not in taken)


def _same(model: nn.Module, made: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Raises UsageError where tracing froze something that the model decides as it runs."""
    with torch.no_grad():
        try:
            wanted = model(*inputs)
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            shapes = ", ".join(str(list(x.shape)) for x in inputs)
            raise UsageError(f"{type(model).__name__} does not take an example of shape {shapes}: {str(error).splitlines()[0]}") from error
        got = made(*inputs)
    if not isinstance(wanted, Tensor):
        raise UsageError(f"{type(model).__name__} returns a {type(wanted).__name__}, not one tensor; wrap it in a module that returns the one to keep")
    if not torch.allclose(wanted, got, rtol=1e-4, atol=1e-5, equal_nan=True):
        name = type(model).__name__
        raise UsageError(f"{name} computes something else once traced by torch.fx; take randomness and choices by value out of its forward")


def reshape(made: fx.GraphModule) -> None:
    """Bring the shapes that nodes carry up to date, for one sample of the example."""
    kinds = {p.dtype for p in made.parameters() if p.is_floating_point()}
    real = next(iter(kinds)) if len(kinds) == 1 else torch.float32
    inputs = [torch.zeros(shape, dtype=real if dtype.is_floating_point else dtype) for shape, dtype in made.meta["example"]]
    modes = {layer: layer.training for layer in made.modules()}
    with torch.no_grad():
        ShapeProp(made.eval()).propagate(*inputs)
    for layer, mode in modes.items():
        layer.training = mode


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
    dim = 1 if len(shape) != 3 or _is_convolution(module, sources[0]) else -1
    plain = isinstance(module_of(module, last), BATCH_NORMS)
    followers, stream = _followers(module, node)
    return Site(
        str(node.target), activation, "bn" if plain else "statistics", tuple(str(s.target) for s in sources), norm, followers,
        shape[dim], dim, shape, len(sources) == 1 and _exclusive(module, node, sources[0]), stream,
    )  # fmt: skip


def _is_convolution(module: fx.GraphModule, node: fx.Node) -> bool:
    return not isinstance(module_of(module, node), nn.Linear)


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
