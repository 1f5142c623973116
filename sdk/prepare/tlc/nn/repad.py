"""Padding moved to the front of a segment, so that merging it later is exact.

A convolution that pads what another one made puts zeros where the merged kernel would see that one's values: inside the picture both agree, in a
ring at the border they do not, and by as much as the values themselves. Padded once by p1 + p2 * s1 before the first, with every convolution
"valid", the two are the same function to the last bit. The network changes at its border, so this comes before fine-tuning.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import fx, nn
from torch.nn import functional as F

from sdk.prepare.tlc.nn.affine import of_layer
from sdk.prepare.tlc.nn.canonical import reshape
from sdk.prepare.tlc.nn.nodes import is_linear, is_pad, module_of, operands, pad_amounts
from sdk.prepare.tlc.nn.segments import Segment, disjoint, find
from sdk.prepare.tlc.nn.spans import Span

Amounts = tuple[int, ...]


def repad(module: fx.GraphModule, chosen: Sequence[Segment]) -> fx.GraphModule:
    """A copy in which every chosen segment pads once, before its first op; what is padded so already stays.

    Outputs keep their shape; values change in a ring at the border. Raises UsageError for segments that share an op or are not there.
    """
    disjoint(chosen)
    made = copy.deepcopy(module)
    for segment in chosen:
        span = find(made, segment)
        if not span.value.exact:
            _move(made, span)
            reshape(made)
    made.graph.lint()
    made.recompile()
    return made


def _move(made: fx.GraphModule, span: Span) -> None:
    """Give every value of the span the ring that its readers need, and make the ring where the span begins."""
    needs = _needs(made, span)
    rings = {node: max((needs[user][node] for user in node.users if user in needs), key=sum) for node in (span.start, *span.nodes[:-1])}
    for node in (span.start, *span.nodes[:-1]):
        have = (0,) * len(rings[node]) if node is span.start else rings[node]
        for user in [u for u in node.users if u in needs]:
            _fit(made, node, user, tuple(n - h for n, h in zip(needs[user][node], have, strict=True)))
    for node in span.nodes:
        layer = module_of(made, node)
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            layer.padding = (0,) * len(layer.kernel_size)
    for node in [n for n in span.nodes if is_pad(n) and max(pad_amounts(n) or ()) > 0]:
        node.replace_all_uses_with(node.all_input_nodes[0])
        made.graph.erase_node(node)


def _needs(made: fx.GraphModule, span: Span) -> dict[fx.Node, dict[fx.Node, Amounts]]:
    """{reader: {what it reads: pixels around it that the reader needs on each side}}, from the end, which needs none."""
    axes = len(span.value.kernel)
    needs: dict[fx.Node, dict[fx.Node, Amounts]] = {}
    for node in reversed(span.nodes):
        ring = max((needs[user][node] for user in node.users if user in needs), key=sum, default=(0,) * axes)
        layer = of_layer(module_of(made, node), "meta") if is_linear(made, node) else None  # type: ignore[arg-type]
        if layer is not None:
            ring = tuple(r * s + p for r, s, p in zip(ring, layer.stride, layer.padding, strict=True))
        elif is_pad(node):
            ring = tuple(r + max(a, 0) for r, a in zip(ring, pad_amounts(node) or (), strict=True))
        needs[node] = dict.fromkeys(operands(node), ring)
    return needs


def _fit(made: fx.GraphModule, node: fx.Node, user: fx.Node, amounts: Amounts) -> None:
    """Pad, or crop, what `user` reads of `node`."""
    if not any(amounts):
        return
    with made.graph.inserting_before(user):
        sides = tuple(a for amount in reversed(amounts) for a in (amount, amount))
        padded = made.graph.call_function(F.pad, (node, sides))
    user.replace_input_with(node, padded)
