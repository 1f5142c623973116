"""How much work a model is, and an estimate of how long a core takes for it.

Multiply-accumulates are counted exactly. Cycles are an estimate: cycles a MAC by kind of op and instruction set, plus cycles
for every value written. Where a kernel's own figures were measured (`sdk.planner.measured`), those are used. Flash wait states,
caches and dual issue are not modelled, so the figure ranks plans and boards; it does not replace a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sdk.graph.ir import Graph, Node
from sdk.graph.ops import written
from sdk.planner.training_work import training_macs

#: Cycles a MAC, by (instruction set, arithmetic): convolution and dense, depthwise.
#: "dsp" int8: two MACs an SMLAD with the loads and widening around it, from the generated-kernel prototypes (1.2-2.1 instructions
#: a MAC) and CMSIS-NN's depthwise (8.5); "mve": 16 MACs an instruction and two loads; "plain": one load pair and MLA a MAC;
#: float with an FPU: two loads and VFMA; without: a library call.
CYCLES_PER_MAC: Mapping[tuple[str, str], tuple[float, float]] = {
    ("mve", "int8"): (0.35, 1.0),
    ("dsp", "int8"): (2.2, 7.0),
    ("plain", "int8"): (6.0, 11.0),
    ("mve", "float32"): (1.0, 2.0),
    ("fpu", "float32"): (5.0, 8.0),
    ("plain", "float32"): (70.0, 75.0),
}
#: Cycles for each value an op writes besides its MACs: requantisation, stores, loop overhead.
CYCLES_PER_VALUE: Mapping[str, float] = {"int8": 12.0, "int16": 12.0, "float32": 8.0}
CYCLES_PER_CALL = 120.0
#: Reads of one value by a windowed op that multiplies nothing (pooling): cycles each.
CYCLES_PER_TAP = 3.0


def node_macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of a node, padding counted as if it were data; 0 for ops that multiply nothing together."""
    out = graph[written(node)[0]]
    match node.op:
        case "conv2d":
            return out.size * math.prod(graph[node.inputs[1]].shape[1:])
        case "depthwise_conv2d":
            return out.size * math.prod(graph[node.inputs[1]].shape[1:3])
        case "dense":
            return out.size * graph[node.inputs[1]].shape[-1]
        case "batch_matmul":
            a = graph[node.inputs[0]].shape
            return out.size * (a[-2] if node.attrs.get("transpose_a") else a[-1])
    return training_macs(graph, node)


def node_cycles(graph: Graph, node: Node, isa: frozenset[str], entry: Mapping[str, Any] | None = None) -> float:
    """Estimated cycles of one node on a core; `entry` is its kernel's measured figures, where there are some."""
    out = graph[written(node)[0]]
    macs = node_macs(graph, node)
    kind = "int8" if out.dtype in ("int8", "uint8", "int16") else "float32"
    per_mac = CYCLES_PER_MAC[_unit(isa, kind), kind]["depthwise" in node.op]
    per_value = CYCLES_PER_VALUE.get(out.dtype, 4.0)
    if entry:
        per_mac, per_value = entry.get("cycles_per_mac", per_mac), entry.get("cycles_per_element", per_value)
    taps = out.size * math.prod(node.attrs.get("kernel", (0,))) if "pool2d" in node.op else _reduced(graph, node)
    return macs * per_mac + out.size * per_value + taps * CYCLES_PER_TAP + (entry or {}).get("cycles_per_call", CYCLES_PER_CALL)


def _reduced(graph: Graph, node: Node) -> int:
    """Values a reduction reads."""
    return graph[node.inputs[0]].size if node.op in ("mean", "sum", "reduce_max", "argmax", "softmax", "log_softmax", "layer_norm") else 0


def _unit(isa: frozenset[str], kind: str) -> str:
    if "mve" in isa:
        return "mve"
    if kind == "int8":
        return "dsp" if "dsp" in isa else "plain"
    return "fpu" if isa & {"fpu-sp", "fpu-dp", "neon"} else "plain"
