"""Segments: runs of linear ops that can become one op once the activations inside are removed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.nodes import LINEAR, is_add, is_linear, is_norm, is_pool, module_of, shape_of
from sdk.prepare.tlc.nn.spans import Span, spans, within
from sdk.prepare.tlc.nn.trace import Site

MAX_KERNEL = 7


@dataclass(frozen=True)
class Segment:
    """A run of linear ops that can become one op.

    ops: in order, convolutions on skip connections included. sites: the activations inside, which must be removed first. adds: residual
    adds inside, which become a Dirac kernel; closes: it ends with one. kind: "conv", "linear", or "pooled" (1x1 convolution, average
    pooling, linear: the pooling then comes first). inputs .. groups describe the merged op; shapes are for one sample. macs: of the ops as
    they are; merged_macs: of the one op. repads: the exact merge needs `repad` first, which changes a ring at the border.
    """

    ops: tuple[str, ...]
    sites: tuple[str, ...]
    adds: int
    closes: bool
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    merged_macs: int
    repads: bool

    def __post_init__(self) -> None:
        if not self.ops or self.kind not in ("conv", "linear", "pooled") or self.macs < 1 or self.merged_macs < 1:
            raise UsageError(f"a segment of ops {self.ops} and kind {self.kind!r} is none; take those that `segments` lists")

    @property
    def key(self) -> str:
        """Its name in records: the same in every copy of the network."""
        return "+".join((*self.ops, *(["add"] if self.closes else [])))


def segments(module: fx.GraphModule, max_kernel: int = MAX_KERNEL) -> tuple[Segment, ...]:
    """Every segment of a canonical network whose merged kernel is at most `max_kernel`, in order; they overlap."""
    return tuple(_segment(module, span) for span in _largest(module, spans(module, max_kernel)))


def _largest(module: fx.GraphModule, found: Iterable[Span]) -> list[Span]:
    """Of spans with the same ops, the one with most around them: a batch norm or the input itself may be added to a sum of convolutions."""
    best: dict[tuple[tuple[str, ...], bool], Span] = {}
    for span in found:
        key = (within(module, span.nodes)[0], span.closes)
        if key not in best or len(span.nodes) > len(best[key].nodes):
            best[key] = span
    return list(best.values())


def find(module: fx.GraphModule, wanted: Segment) -> Span:
    """Where a segment lies in this copy of the network. Raises UsageError where it is not there (any more)."""
    for span in _largest(module, spans(module, max(wanted.kernel), frozenset(wanted.ops))):
        if span.closes == wanted.closes and within(module, span.nodes)[0] == wanted.ops:
            return span
    raise UsageError(f"the network has no segment {wanted.key}; take one that `segments` lists for it, and merge each op once")


def disjoint(chosen: Sequence[Segment]) -> None:
    """Raises UsageError where two of them share an op."""
    seen: dict[str, str] = {}
    for segment in chosen:
        for op in segment.ops:
            if op in seen:
                raise UsageError(f"segments {seen[op]} and {segment.key} both merge {op}; choose one of them")
            seen[op] = segment.key


def _segment(module: fx.GraphModule, span: Span) -> Segment:
    ops, acts = within(module, span.nodes)
    value, before, after = span.value, shape_of(span.start), shape_of(span.end)
    assert before is not None and after is not None, "a span lies between tensors"
    flat = isinstance(module_of(module, _last_op(module, span)), nn.Linear)
    kind = "pooled" if span.hoisted else "linear" if flat else "conv"
    macs = sum(_macs(module, node) for node in span.nodes if is_linear(module, node))
    merged = math.prod(after) * value.inputs // value.groups * math.prod(value.kernel)
    return Segment(
        ops, acts, sum(is_add(n) for n in span.nodes), span.closes, kind, value.inputs, len(value.weight), value.kernel, value.stride, value.padding,
        value.groups, before, after, macs, merged, not value.exact,
    )  # fmt: skip


def _last_op(module: fx.GraphModule, span: Span) -> fx.Node:
    return next(node for node in reversed(span.nodes) if is_linear(module, node))


def _macs(module: fx.GraphModule, node: fx.Node) -> int:
    """Products of one linear op for one sample: each value of the output is a sum over the rows of the weight."""
    layer, shape = module_of(module, node), shape_of(node)
    assert isinstance(layer, LINEAR) and shape is not None
    return math.prod(shape) * layer.weight[0].numel()


def inside(module: fx.GraphModule, found: Iterable[Site]) -> Iterator[Site]:
    """The sites with `mergeable` and `why_not` filled in."""
    merged = {name for segment in segments(module) for name in segment.sites}
    by_name = {str(node.target): node for node in module.graph.nodes if node.op == "call_module"}
    for site in found:
        reason = "" if site.name in merged else _reason(module, site, by_name[site.name])
        yield replace(site, mergeable=not reason, why_not=reason)


def _reason(module: fx.GraphModule, site: Site, node: fx.Node) -> str:
    """Why no segment holds the site, one sentence."""
    if not site.followers:
        return "no convolution or linear layer reads its output"
    if site.stream:
        return f"its output also goes into a residual add, and the block behind it does not become one op with a kernel up to {MAX_KERNEL}"
    if len(node.users) > 1:
        return f"{len(node.users)} ops read its output"
    reader = next(iter(node.users))
    if is_pool(module, reader) or is_norm(module, reader):
        layer = module_of(module, reader)
        return f"{type(layer).__name__ if layer is not None else reader.name} stands between it and the next linear op"
    if not site.exclusive:
        return "what it reads is read elsewhere too, or is a sum of branches that do not become one op"
    return f"the merged kernel would be larger than {MAX_KERNEL}, or a layer around it pads with something else than zeros or is used twice"


def part(module: fx.GraphModule, segment: Segment, *, merged: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """(a module of this segment alone, the shape of its input for one sample): as it is, or as the one op it can become.

    For asking what either costs on a device: the merged op has the right shape and the weights of torch's initialisation.
    """
    span = find(module, segment)
    if not merged:
        return _cut_out(module, span), segment.input_shape
    pools = [_cut_out(module, replace(span, start=node.all_input_nodes[0], nodes=(node,))) for node in span.hoisted]
    return nn.Sequential(*pools, _fresh(segment, module)).eval(), segment.input_shape


def _cut_out(module: fx.GraphModule, span: Span) -> fx.GraphModule:
    """The nodes of a span as a network of one input; its weights are copies."""
    graph = fx.Graph()
    known = {span.start: graph.placeholder("x")}
    for node in span.nodes:
        known[node] = graph.node_copy(node, lambda n: known[n])
    graph.output(known[span.end])
    return copy.deepcopy(fx.GraphModule(module, graph)).eval()


def _fresh(segment: Segment, module: fx.GraphModule) -> nn.Module:
    """The merged op before it has its weights; a negative padding crops first."""
    like = next(p for p in module.parameters() if p.is_floating_point())
    if segment.kind != "conv":
        return nn.Linear(segment.inputs, segment.outputs).to(like)
    kind = nn.Conv2d if len(segment.kernel) == 2 else nn.Conv1d
    padding = tuple(max(p, 0) for p in segment.padding)
    return kind(segment.inputs, segment.outputs, segment.kernel, segment.stride, padding, groups=segment.groups).to(like)  # type: ignore[arg-type]
