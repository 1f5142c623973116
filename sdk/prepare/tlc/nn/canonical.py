"""A network in canonical form: traced by torch.fx, every activation a module of its own, shapes on its nodes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.parametrize import is_parametrized

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.activations import spelled
from sdk.prepare.tlc.nn.nodes import ChannelAffine

Example = Tensor | tuple[Tensor, ...]


class _Tracer(fx.Tracer):
    """torch.nn and our own stand-ins are leaves, but for torch's transformer layers, which hold an activation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.TransformerEncoderLayer):
            return False
        return isinstance(m, ChannelAffine) or super().is_leaf_module(m, module_qualified_name)


class _Encoder(nn.Module):
    """torch's encoder without its choices by shape, which cannot be traced; the same layers under the same names."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers, self.norm = encoder.layers, encoder.norm

    def forward(self, src: Tensor) -> Tensor:
        for layer in self.layers:
            src = layer(src)
        return src if self.norm is None else self.norm(src)


def canonical(model: nn.Module, example: Example) -> fx.GraphModule:
    """The same network, traced in evaluation mode, every activation call a module of its own; weights are copies.

    example: input(s) [N, ...]; shapes are kept for its first sample. Raises UsageError when the model cannot be traced, does not
    take the example, or computes something else once traced.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _plain(model)
    source = copy.deepcopy(model).eval()
    made = source if isinstance(source, fx.GraphModule) else _traced(copy.deepcopy(source))
    _respell(made)
    made.meta["example"] = tuple((tuple(x[:1].shape), x.dtype) for x in inputs)
    _same(source, made, tuple(x[:1] for x in inputs))
    reshape(made)
    return made


def _plain(model: nn.Module) -> None:
    """Raises UsageError where weights are computed from others at every call: what is written into them would be lost."""
    for name, layer in model.named_modules():
        if is_parametrized(layer):
            raise UsageError(f"{name or type(model).__name__} has parametrized weights; call torch.nn.utils.parametrize.remove_parametrizations on it first")


def _traced(model: nn.Module) -> fx.GraphModule:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.TransformerEncoder) and name:
            model.set_submodule(name, _Encoder(layer))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a transformer layer looks for it by the input's values
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:  # fx raises whatever the model's own code does with a placeholder
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"cannot trace {type(model).__name__}: {reason}; layers are found by torch.fx, so write its forward without branches on the values of its input"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


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
    device = next((p.device for p in made.parameters()), torch.device("cpu"))
    inputs = [torch.zeros(shape, dtype=real if dtype.is_floating_point else dtype, device=device) for shape, dtype in made.meta["example"]]
    modes = {layer: layer.training for layer in made.modules()}
    for node in made.graph.nodes:
        node.meta = {}  # where a call stood in the source is copied with every copy of the network, and nobody asks
    with torch.no_grad():
        ShapeProp(made.eval()).propagate(*inputs)
    for layer, mode in modes.items():
        layer.training = mode
