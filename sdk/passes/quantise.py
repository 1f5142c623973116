"""A float graph as an int8 graph: LiteRT's rules, one sentence per choice in `QuantOptions`.

    small = quantise(graph, images, QuantOptions(range="mse"))     # images: anything `sdk.data.read` reads

The graph should have had the float passes first (batch norms folded, activations fused); names stay, so that
`sdk.passes.quant_report.report(graph, small, images)` can say what every layer cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdk.data import Calibration, read
from sdk.errors import ModelError, UsageError
from sdk.graph.ir import Graph, Quant
from sdk.passes.bias_correction import correct_biases
from sdk.passes.calibrate import Progress, Stats, observe
from sdk.passes.equalise import equalise
from sdk.passes.quant_rewrite import Scheme, pool_as_mean, rewrite, with_bias
from sdk.passes.quant_rules import precisions, ties
from sdk.passes.ranges import CHOOSERS, chooser, quant_for
from sdk.passes.soften_masks import masks, soften_masks


@dataclass(frozen=True)
class QuantOptions:
    """How to quantise. The defaults suit most nets; `report` tells when they do not."""

    range: str = "minmax"  # of activations: everything seen, a percentile of it, or least mean square error
    percentile: float = 99.99  # for range="percentile": per cent of the values kept on either side
    bias_correction: bool = True  # take the mean error of every layer's channels out of its bias
    equalise: bool = True  # move scale between neighbouring layers so that channels use the 8 bits alike
    keep_float: tuple[str, ...] = ()  # names of nodes computed in float32
    int16: tuple[str, ...] = ()  # names of nodes computed with int16 activations (and int8 weights)
    float_io: bool = False  # inputs and outputs stay float32; else they are int8
    samples: int = 512  # at most so many calibration samples are used

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep_float", _names(self.keep_float, "keep_float"))
        object.__setattr__(self, "int16", _names(self.int16, "int16"))
        if self.range not in CHOOSERS:
            raise UsageError(f"range {self.range!r} is unknown; choose one of {', '.join(CHOOSERS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"percentile {self.percentile} is not in (50, 100]; 99.99 drops one value in ten thousand on either side")
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}; calibration needs at least 1")
        both = sorted(set(self.keep_float) & set(self.int16))
        if both:
            raise UsageError(f"node {both[0]} is named in keep_float and in int16; choose one")

    def __str__(self) -> str:
        ranges = f"{self.percentile:g} per cent of the values" if self.range == "percentile" else self.range
        yes = {"biases corrected": self.bias_correction, "channels equalised": self.equalise, "real inputs and outputs": self.float_io}
        parts = [f"ranges by {ranges}", *(what for what, done in yes.items() if done)]
        parts += [f"{kind} for {', '.join(names)}" for kind, names in (("int16", self.int16), ("float32", self.keep_float)) if names]
        return ", ".join(parts)


def _names(value: Any, option: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise UsageError(f"{option} is the string {value!r}; give a tuple of node names, ({value!r},)")
    return tuple(value)


def quantise(graph: Graph, calibration: Any, options: QuantOptions | None = None, progress: Progress | None = None) -> Graph:
    """`graph` (float32) with int8 weights and activations; `calibration` is what `sdk.data.read` takes.

    Raises DataError for data that does not fit, ModelError for a graph that is quantised already, UsageError for options
    that name no node. `progress(done, total)` is called as the samples go through.
    """
    options = options or QuantOptions()
    return convert(prepare(graph, calibration, options, progress), options)


@dataclass(frozen=True)
class Prepared:
    """A float graph ready to be written in integers, and what calibration saw: enough to try several precisions."""

    graph: Graph
    stats: Mapping[str, Stats]
    samples: Calibration


def prepare(graph: Graph, calibration: Any, options: QuantOptions, progress: Progress | None = None) -> Prepared:
    """Check, equalise and observe: everything that does not depend on the nodes' precision."""
    check_float(graph)
    samples = read(calibration, graph, options.samples)
    graph = pool_as_mean(graph)
    if options.bias_correction:
        graph = with_bias(graph)
    if masks(graph):
        graph = soften_masks(graph, observe(graph, samples, histograms=False))
    if options.equalise:
        graph = equalise(graph, observe(graph, samples, histograms=False))
    return Prepared(graph, observe(graph, samples, options.range != "minmax", progress), samples)


def convert(prepared: Prepared, options: QuantOptions) -> Graph:
    """The integer graph."""
    quantised = rewrite(prepared.graph, scheme(prepared.graph, prepared.stats, options))
    return correct_biases(prepared.graph, quantised, prepared.samples) if options.bias_correction else quantised


def check_float(graph: Graph) -> None:
    """Raises ModelError unless `graph` is one that can be quantised."""
    for tensor in graph.tensors.values():
        if tensor.quant is not None or tensor.dtype in ("int8", "int16"):
            raise ModelError(f"tensor {tensor.name} is {tensor.dtype} already; give quantise the float model, or compile this one as it is")
    if not any(tensor.dtype == "float32" for tensor in graph.activations()):  # inputs may be tokens: their embeddings are real
        raise ModelError(f"model {graph.name} computes nothing in float32 that could be quantised; compile it as it is")


def scheme(graph: Graph, stats: Mapping[str, Stats], options: QuantOptions) -> Scheme:
    """Precision of every node and quantisation of every tensor, from what calibration saw."""
    precision = precisions(graph, options.keep_float, options.int16)
    quants: dict[tuple[str, str], Quant] = {}
    for dtype in ("int8", "int16"):
        quants |= {(name, dtype): quant for name, quant in _quants(graph, stats, options, precision, dtype).items()}
    return Scheme(precision, quants, options.float_io)


def _quants(graph: Graph, stats: Mapping[str, Stats], options: QuantOptions, precision: Mapping[str, str], dtype: str) -> dict[str, Quant]:
    """Tensor name -> quantisation in `dtype`, for every float activation: one per group of tied tensors."""
    groups = ties(graph, precision, dtype)
    choose = chooser(options.range)
    ranges: dict[str, tuple[float, float]] = {}
    for name, seen in stats.items():
        low, high = (seen.low, seen.high) if dtype == "int16" else choose(seen.low, seen.high, seen.histogram, options.percentile)
        root = groups.root(name)
        ranges[root] = (min(low, ranges[root][0]), max(high, ranges[root][1])) if root in ranges else (low, high)
    made = {root: groups.fixed(root) or quant_for(dtype, *limits) for root, limits in ranges.items()}
    _widen_hard_swish(graph, made, groups.root)
    return {name: made[groups.root(name)] for name in stats}


def _widen_hard_swish(graph: Graph, made: dict[str, Quant], root: Any) -> None:
    """LiteRT's hard_swish cannot enlarge: its output's step must be at least 1/128 of its input's (an input far below zero)."""
    for node in graph.nodes:
        if node.op != "hard_swish" or root(node.inputs[0]) not in made:
            continue
        floor = made[root(node.inputs[0])].scale[0] / 100
        out = made[root(node.outputs[0])]
        if out.scale[0] < floor:
            made[root(node.outputs[0])] = replace(out, scale=(floor,))


__all__ = ["Prepared", "QuantOptions", "check_float", "convert", "prepare", "quantise", "scheme"]
