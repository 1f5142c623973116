"""A graph as text: one line per node, with shapes, types and scales."""

from __future__ import annotations

from typing import Any

from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.ops import OPS


def to_text(graph: Graph) -> str:
    """A readable listing.

    ```
    graph kws01: 13 nodes, 52,568 bytes of constants
      input  input_1 int8[1, 49, 10, 1] (0.584703, 83)
      conv2d_0: conv2d(input_1, w int8[64, 10, 4, 1] (64 scales), b int32[64]) -> x int8[1, 25, 5, 64] (0.18, -128)  stride=(2, 2) ...
      output Identity int8[1, 12] (0.00390625, -128)
    ```
    """
    weights = sum(t.size_bytes for t in graph.constants())
    lines = [f"graph {graph.name}: {len(graph.nodes)} nodes, {weights:,} bytes of constants"]
    lines += [f"  input  {_tensor(graph[name])}" for name in graph.inputs]
    lines += [f"  {_node(graph, node)}" for node in graph.nodes]
    lines += [f"  output {_tensor(graph[name])}" for name in graph.outputs]
    return "\n".join(lines) + "\n"


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype}{list(tensor.shape)}{_quant(tensor)}{' variable' if tensor.variable else ''}"


def _quant(tensor: Tensor) -> str:
    quant = tensor.quant
    if quant is None:
        return ""
    return f" ({quant.scale[0]:.6g}, {quant.zero_point[0]})" if len(quant.scale) == 1 else f" ({len(quant.scale)} scales)"


def _node(graph: Graph, node: Node) -> str:
    inputs = ", ".join(_input(graph, name) for name in node.inputs)
    outputs = ", ".join(_tensor(graph[name]) for name in node.outputs) or f"changes {', '.join(OPS[node.op].updated(node))}"
    attrs = " ".join(f"{key}={_plain(value)}" for key, value in node.attrs.items())
    return f"{node.name}: {node.op}({inputs}) -> {outputs}{'  ' + attrs if attrs else ''}"


def _input(graph: Graph, name: str) -> str:
    if not name:
        return "-"
    return _tensor(graph[name]) if graph[name].is_const or graph[name].variable else name


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace(" ", "")
