"""The kernel table: which C function computes an op, for which data type, on which cores, and why.

`lower` takes the first row that fits the node's op, the data type of its first input and the core's instruction set,
and whose function accepts the node; a row that refuses says why, and the next one is tried.
"""

from __future__ import annotations

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node
from sdk.kernels.base import Call, Kernel, Lowered, Refused, Site
from sdk.kernels.ops import conv, conv_dsp, depthwise_dsp, elementwise, pool, softmax

S8 = ("int8",)
ANY_CORE: frozenset[str] = frozenset()
DSP: frozenset[str] = frozenset({"dsp"})

TABLE: tuple[Kernel, ...] = (
    Kernel("conv2d", S8, DSP, "embarq_conv2d_s8_dsp", "three pixels by two channels per block, two MACs an instruction", conv_dsp.conv2d_s8),
    Kernel("conv2d", S8, ANY_CORE, "embarq_conv2d_s8", "portable C, any geometry", conv.conv2d_s8),
    Kernel("depthwise_conv2d", S8, DSP, "embarq_depthwise_s8_dsp", "rows in pairs, four channels at a time, each column unpacked once", depthwise_dsp.depthwise_s8),  # noqa: E501
    Kernel("depthwise_conv2d", S8, ANY_CORE, "embarq_depthwise_s8", "portable C, any geometry", conv.depthwise_s8),
    Kernel("dense", S8, DSP, "embarq_dense_s8_dsp", "four channels at a time, no scratch", conv_dsp.dense_s8),
    Kernel("dense", S8, ANY_CORE, "embarq_dense_s8", "portable C", conv.dense_s8),
    Kernel("add", S8, DSP, "embarq_add_s8_dsp", "equal shapes: a linear form proven on every pair of bytes", elementwise.add_s8_dsp),
    Kernel("add", S8, ANY_CORE, "embarq_add_s8", "portable C, broadcasting", elementwise.add_s8),
    Kernel("sub", S8, DSP, "embarq_add_s8_dsp", "equal shapes: the same with a negative factor", elementwise.add_s8_dsp),
    Kernel("sub", S8, ANY_CORE, "embarq_add_s8", "an addition with the second sign turned", elementwise.add_s8),
    Kernel("avg_pool2d", S8, ANY_CORE, "embarq_avg_pool_s8", "portable C", pool.pool_s8),
    Kernel("max_pool2d", S8, ANY_CORE, "embarq_max_pool_s8", "portable C", pool.pool_s8),
    Kernel("softmax", S8, ANY_CORE, "embarq_softmax_s8", "gemmlowp's fixed point", softmax.softmax_s8),
)


def rows(op: str, dtype: str, isa: frozenset[str]) -> list[Kernel]:
    """The rows that may compute `op` on `dtype` on a core with `isa`, best first."""
    return [row for row in TABLE if row.op == op and dtype in row.dtypes and row.isa <= isa]


def lower(graph: Graph, node: Node, isa: frozenset[str]) -> Call | None:
    """The kernel call that computes `node` on a core with the instruction sets `isa` ({"armv7e-m", "dsp"}).

    None for a node that needs no code: its output is its input's buffer. Raises UnsupportedOp naming node, reason, mend.
    """
    if node.op == "reshape":
        return None
    site = Site(graph, node)
    dtype = _dtype(site)
    refused: Refused | None = None
    for row in rows(node.op, dtype, isa):
        lowered: Lowered = row.lower(site)
        if not isinstance(lowered, Refused):
            return lowered
        refused = lowered
    if refused is None:
        raise UnsupportedOp(_unknown(node, dtype))
    raise UnsupportedOp(f"node {node.name} ({node.op}, {dtype}) {_where(node)}{refused.reason}, which no kernel computes; {refused.mend}")


def _dtype(site: Site) -> str:
    first = next((name for name in site.node.inputs if name), None)
    return site.graph[first].dtype if first else site.output.dtype


def _unknown(node: Node, dtype: str) -> str:
    op = node.attrs.get("kind", "opaque") if node.op == "opaque" else node.op
    known = sorted({d for row in TABLE if row.op == node.op for d in row.dtypes})
    if known:
        return f"node {node.name} ({op}) {_where(node)}is {dtype}, and microcontroller kernels compute it on {', '.join(known)}; quantise or cast it"
    return f"node {node.name} {_where(node)}is {op} on {dtype}, which no microcontroller kernel computes; replace it, or choose a Linux device"


def _where(node: Node) -> str:
    return f"from {node.source} " if node.source else ""
