"""The kernel table: which C function computes an op, for which data type, on which cores, and why.

`lower` takes the first row that fits the node's op, the data type of its first input and the core's instruction set,
and whose function accepts the node; a row that refuses says why, and the next one is tried.
"""

from __future__ import annotations

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node
from sdk.kernels.base import Call, Kernel, Lower, Lowered, Refused, Site
from sdk.kernels.ops import conv, conv_dsp, depthwise_dsp, elementwise, move, norm, pool, reduce, softmax, training, training_update, unary

S8, S16, F32 = ("int8",), ("int16",), ("float32",)
INTS = ("int8", "int16")
ANY = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")
ANY_CORE: frozenset[str] = frozenset()
DSP: frozenset[str] = frozenset({"dsp"})

UNARY = (
    "relu", "relu6", "relu_n1_to_1", "leaky_relu", "elu", "hard_swish", "hard_sigmoid", "sigmoid", "tanh", "silu", "gelu",
    "exp", "log", "sqrt", "rsqrt", "abs", "neg", "clip",
)  # fmt: skip
ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum", "squared_difference")


def _all(ops: tuple[str, ...], dtypes: tuple[str, ...], function: str, why: str, lower: Lower) -> tuple[Kernel, ...]:
    return tuple(Kernel(op, dtypes, ANY_CORE, function.replace("*", op), why, lower) for op in ops)


TABLE: tuple[Kernel, ...] = (
    Kernel("conv2d", S8, DSP, "embarq_conv2d_s8_dsp", "three pixels by two channels per block, two MACs an instruction", conv_dsp.conv2d_s8),
    Kernel("conv2d", S8, ANY_CORE, "embarq_conv2d_s8", "portable C, any geometry", conv.conv2d_s8),
    Kernel("conv2d", S16, ANY_CORE, "embarq_conv2d_s16", "portable C, 64-bit sums", conv.conv2d_s16),
    Kernel("conv2d", F32, ANY_CORE, "embarq_conv2d_f32", "portable C, any geometry", conv.conv2d_f32),
    Kernel("depthwise_conv2d", S8, DSP, "embarq_depthwise_s8_dsp", "four channels at a time, each column unpacked once, two taps an instruction",
           depthwise_dsp.depthwise_s8),
    Kernel("depthwise_conv2d", S8, ANY_CORE, "embarq_depthwise_s8", "portable C, any geometry", conv.depthwise_s8),
    Kernel("depthwise_conv2d", S16, ANY_CORE, "embarq_depthwise_s16", "portable C, 64-bit sums", conv.depthwise_s16),
    Kernel("depthwise_conv2d", F32, ANY_CORE, "embarq_depthwise_f32", "portable C, any geometry", conv.depthwise_f32),
    Kernel("dense", S8, DSP, "embarq_dense_s8_dsp", "one vector by four channels, no scratch; several rows as a 1x1 convolution", conv_dsp.dense_s8),
    Kernel("dense", S8, ANY_CORE, "embarq_dense_s8", "portable C", conv.dense_s8),
    Kernel("dense", S16, ANY_CORE, "embarq_dense_s16", "portable C, 64-bit sums", conv.dense_s16),
    Kernel("dense", F32, ANY_CORE, "embarq_dense_f32", "portable C", conv.dense_f32),
    Kernel("batch_matmul", INTS, ANY_CORE, "embarq_batch_matmul_int", "portable C, both sides activations", conv.batch_matmul_int),
    Kernel("batch_matmul", F32, ANY_CORE, "embarq_batch_matmul_f32", "portable C", conv.batch_matmul_f32),
    Kernel("add", S8, DSP, "embarq_add_s8_dsp", "equal shapes: a linear form proven on every pair of bytes", elementwise.add_s8_dsp),
    Kernel("sub", S8, DSP, "embarq_add_s8_dsp", "equal shapes: the same with a negative factor", elementwise.add_s8_dsp),
    Kernel("add", S8, DSP, "embarq_add_exact_s8_dsp", "equal shapes whose scales make ties: LiteRT's own steps", elementwise.add_exact_s8_dsp),
    Kernel("sub", S8, DSP, "embarq_add_exact_s8_dsp", "the same with a sign", elementwise.add_exact_s8_dsp),
    Kernel("squared_difference", S8, ANY_CORE, "embarq_squared_difference_int", "portable C, broadcasting", elementwise.arithmetic_int),
    *_all(ARITHMETIC[:-1], INTS, "embarq_*_int", "portable C, broadcasting (sub is add with a sign)", elementwise.arithmetic_int),
    *_all(ARITHMETIC, F32, "embarq_*_f32", "portable C, broadcasting", elementwise.arithmetic_f32),
    Kernel("prelu", S8, ANY_CORE, "embarq_prelu_s8", "portable C, broadcasting", elementwise.prelu_s8),
    Kernel("prelu", F32, ANY_CORE, "embarq_prelu_f32", "portable C, broadcasting", elementwise.arithmetic_f32),
    *_all((*UNARY, "requantize"), S8, "embarq_table_s8", "256 results made by the host", unary.table_s8),
    *_all(UNARY, S16, "embarq_table_s16", "513 values and lines between them; clamps are a rescaling", unary.unary_s16),
    *_all(UNARY, F32, "embarq_*_f32", "portable C; relus are a clip", unary.unary_f32),
    Kernel("requantize", ("int8", "int16", "int32"), ANY_CORE, "embarq_requantize_int", "between integer types and scales", unary.requantize_int),
    Kernel("quantize", F32, ANY_CORE, "embarq_quantize_f32", "to nearest, halves away from zero", unary.quantize_f32),
    Kernel("dequantize", ("int8", "int16", "int32"), ANY_CORE, "embarq_dequantize_int", "scale * (q - zero point)", unary.dequantize_int),
    Kernel("cast", ANY, ANY_CORE, "embarq_cast", "any type to any type", unary.cast),
    Kernel("avg_pool2d", S8, DSP, "embarq_avg_pool_s8_dsp", "four channels at a time, sums of 16 bits", pool.avg_pool_s8_dsp),
    *_all(("avg_pool2d", "max_pool2d"), INTS, "embarq_avg_pool_int, embarq_max_pool_int", "portable C", pool.pool_int),
    *_all(("avg_pool2d", "max_pool2d"), F32, "embarq_avg_pool_f32, embarq_max_pool_f32", "portable C", pool.pool_f32),
    *_all(("mean", "sum", "reduce_max"), INTS, "embarq_sum_int, embarq_reduce_max_int", "a mean is a sum whose multiplier divides", reduce.reduce_int),
    *_all(("mean", "sum", "reduce_max"), F32, "embarq_sum_f32, embarq_reduce_max_f32", "portable C", reduce.reduce_f32),
    Kernel("argmax", (*INTS, *F32), ANY_CORE, "embarq_argmax_int, embarq_argmax_f32", "the first of equals", reduce.argmax),
    Kernel("softmax", S8, ANY_CORE, "embarq_softmax_s8", "gemmlowp's fixed point", softmax.softmax_s8),
    Kernel("softmax", S16, ANY_CORE, "embarq_softmax_s16", "two interpolated tables", softmax.softmax_s16),
    *_all(("softmax", "log_softmax"), F32, "embarq_*_f32", "portable C", softmax.softmax_f32),
    Kernel("log_softmax", S8, ANY_CORE, "embarq_log_softmax_s8", "gemmlowp's fixed point", softmax.log_softmax_s8),
    Kernel("layer_norm", INTS, ANY_CORE, "embarq_layer_norm_int", "exact integer sums, then float32", norm.layer_norm_int),
    Kernel("layer_norm", F32, ANY_CORE, "embarq_layer_norm_f32", "portable C", norm.layer_norm_f32),
    Kernel("batch_norm", F32, ANY_CORE, "embarq_batch_norm_f32", "where it could not be folded", norm.batch_norm_f32),
    Kernel("transpose", ANY, ANY_CORE, "embarq_copy_strided", "a strided copy", move.transpose),
    Kernel("slice", ANY, ANY_CORE, "embarq_copy_strided", "a strided copy", move.slice_),
    Kernel("tile", ANY, ANY_CORE, "embarq_copy_strided", "a strided copy with steps of 0", move.tile),
    Kernel("pad", ANY, ANY_CORE, "embarq_pad", "filled, then a strided copy", move.pad),
    Kernel("concat", ANY, ANY_CORE, "embarq_concat", "whole runs of bytes", move.concat),
    Kernel("gather", ANY, ANY_CORE, "embarq_gather", "whole runs of bytes", move.gather),
    Kernel("resize_nearest", ("float32", "int8", "int16"), ANY_CORE, "embarq_resize_nearest", "rows and columns from tables", move.resize_nearest),
    Kernel("resize_bilinear", ("float32", "int8", "int16"), ANY_CORE, "embarq_resize_bilinear_int, embarq_resize_bilinear_f32",
           "places and shares from tables", move.resize_bilinear),
    *(Kernel(op, F32, ANY_CORE, function, why, lower_it) for op, function, why, lower_it in (*training.ROWS, *training_update.ROWS)),
)  # fmt: skip

#: A reshape needs no code, except where the model returns a constant: that has no bytes in the arena until they are copied there.
CONSTANT = Kernel("reshape", ANY, ANY_CORE, "embarq_copy_strided", "a constant that the model returns is copied", move.reshape)


def rows(op: str, dtype: str, isa: frozenset[str]) -> list[Kernel]:
    """The rows that may compute `op` on `dtype` on a core with `isa`, best first."""
    return [row for row in TABLE if row.op == op and dtype in row.dtypes and row.isa <= isa]


def lower(graph: Graph, node: Node, isa: frozenset[str]) -> Call | None:
    """The kernel call that computes `node` on a core with the instruction sets `isa` ({"armv7e-m", "dsp"}).

    None for a node that needs no code: its output is its input's buffer. Raises UnsupportedOp naming node, reason, mend.
    """
    site = Site(graph, node)
    if node.op == "reshape" and not graph[node.inputs[0]].is_const:
        return None
    dtype = _dtype(site)
    refused: Refused | None = None
    for row in (CONSTANT,) if node.op == "reshape" else rows(node.op, dtype, isa):
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
