"""Segments merged into one op each: linear-linear, pairs of convolutions, whole inverted residuals with their add as a Dirac kernel.

The batch norms and the stand-ins of removed activations are folded in. Weights are computed in float64, so the merged op differs from the
segment by the rounding of its own type. Where the merge is not exact the request is refused; `repad` before training makes it so.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, fx, nn
from torch.nn import functional as F

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.activations import name_of
from sdk.prepare.tlc.nn.affine import Affine, as_conv, as_linear
from sdk.prepare.tlc.nn.canonical import reshape
from sdk.prepare.tlc.nn.cut import cut
from sdk.prepare.tlc.nn.fold import absorb, drop_dropouts, fold
from sdk.prepare.tlc.nn.nodes import is_linear, module_of
from sdk.prepare.tlc.nn.segments import Segment, disjoint, find
from sdk.prepare.tlc.nn.spans import Span, computed


def merge(module: fx.GraphModule, chosen: Sequence[Segment]) -> fx.GraphModule:
    """A copy in evaluation mode in which every chosen segment is one convolution or linear layer, named as its first op was.

    Raises UsageError where an activation inside is still there, where the merge would change the border (`repad` first), and for
    segments that share an op or are not there.
    """
    disjoint(chosen)
    made = copy.deepcopy(module).eval()
    for segment in chosen:
        span = find(made, segment)
        _check(made, segment, span)
        _replace(made, segment.ops[0], span)
        reshape(made)
    made.delete_all_unused_submodules()
    made.graph.lint()
    made.recompile()
    return made


def finish(module: fx.GraphModule, chosen: Sequence[Segment] = ()) -> fx.GraphModule:
    """A copy in evaluation mode of plain ops only, for `sdk.load`: it computes what `module` computes.

    Stand-ins of removed activations that no layer can take in (behind a residual add, say) stay as a multiplication and an addition by constants;
    where they are the identity they go.
    """
    made = merge(module, chosen)
    drop_dropouts(made)
    cut(made)
    absorb(made)
    fold(made)
    absorb(made)
    made.delete_all_unused_submodules()
    made.graph.lint()
    made.recompile()
    reshape(made)
    return made


def _check(made: fx.GraphModule, segment: Segment, span: Span) -> None:
    kept = [str(n.target) for n in span.nodes if name_of(module_of(made, n)) is not None]
    if kept:
        raise UsageError(f"segment {segment.key} cannot be merged: its activation {kept[0]} is still there; remove it with `linearise` first")
    if not span.value.exact:
        raise UsageError(f"segment {segment.key} pads inside, so merging would change its border; call `repad` before training, then merge")


def _replace(made: fx.GraphModule, name: str, span: Span) -> None:
    """Put one op in the place of the span's nodes."""
    value = computed(made, span)
    last = next(n for n in reversed(span.nodes) if is_linear(made, n))
    like = getattr(module_of(made, last), "weight", None)
    assert isinstance(like, Tensor)
    flat = isinstance(module_of(made, last), nn.Linear)
    with made.graph.inserting_before(span.end):
        source = _pooled(made, span)
        source = source if flat else _cropped(made, source, value)
        node = made.graph.call_module(name, (source,))
    layer = as_linear(value, like) if flat else as_conv(replace(value, padding=tuple(max(p, 0) for p in value.padding)), like)
    span.end.replace_all_uses_with(node)
    for old in reversed(span.nodes):
        made.graph.erase_node(old)
    made.set_submodule(name, layer.eval())


def _pooled(made: fx.GraphModule, span: Span) -> fx.Node:
    """What the merged op reads: the start, pooled and flattened where the span does so."""
    source = span.start
    for node in span.hoisted:
        before = node.all_input_nodes[0]
        source = made.graph.node_copy(node, lambda n, before=before, source=source: source if n is before else n)  # type: ignore[misc]
    return source


def _cropped(made: fx.GraphModule, source: fx.Node, value: Affine) -> fx.Node:
    """A convolution cannot crop: a negative padding is a node of its own."""
    if min(value.padding) >= 0:
        return source
    sides = tuple(a for amount in reversed(value.padding) for a in (min(amount, 0), min(amount, 0)))
    return made.graph.call_function(F.pad, (source, sides))
