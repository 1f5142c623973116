"""LiteRT's operators and their conversions: the one table, a function each."""

from __future__ import annotations

from collections.abc import Mapping

from sdk.graph import tflite_compute as compute
from sdk.graph import tflite_shapes as shapes
from sdk.graph.tflite_operator import Conversion, Importer, NoEquivalent, Operator


def convert(importer: Importer, op: Operator) -> None:
    """Adds the nodes of one operator. Raises NoEquivalent when there are none for it."""
    conversion = CONVERSIONS.get(op.kind)
    if conversion is None:
        raise NoEquivalent
    conversion(importer, op)


#: LiteRT operator -> its conversion. What is not here stays opaque.
CONVERSIONS: Mapping[str, Conversion] = {
    "CONV_2D": compute.conv_2d,
    "DEPTHWISE_CONV_2D": compute.depthwise_conv_2d,
    "FULLY_CONNECTED": compute.fully_connected,
    "BATCH_MATMUL": compute.batch_matmul,
    "MAX_POOL_2D": compute.pool("max_pool2d"),
    "AVERAGE_POOL_2D": compute.pool("avg_pool2d"),
    "ADD": compute.add_or_sub("add"),
    "SUB": compute.add_or_sub("sub"),
    "MUL": compute.binary("mul"),
    "DIV": compute.binary("div"),
    "MAXIMUM": compute.binary("maximum", None),
    "MINIMUM": compute.binary("minimum", None),
    "SQUARED_DIFFERENCE": compute.binary("squared_difference", None),
    **{kind: compute.unary(name) for kind, name in (
        ("RELU", "relu"), ("RELU6", "relu6"), ("RELU_N1_TO_1", "relu_n1_to_1"), ("ELU", "elu"), ("HARD_SWISH", "hard_swish"),
        ("LOGISTIC", "sigmoid"), ("TANH", "tanh"), ("EXP", "exp"), ("LOG", "log"), ("SQRT", "sqrt"), ("RSQRT", "rsqrt"), ("ABS", "abs"),
        ("NEG", "neg"))},
    "LEAKY_RELU": compute.leaky_relu,
    "PRELU": compute.prelu,
    "GELU": compute.gelu,
    "SQUARE": compute.square,
    "RELU_0_TO_1": compute.relu_0_to_1,
    "SOFTMAX": compute.softmax,
    "LOG_SOFTMAX": compute.log_softmax,
    "QUANTIZE": compute.quantize,
    "DEQUANTIZE": compute.dequantize,
    "CAST": compute.cast,
    "MEAN": compute.reduce("mean"),
    "SUM": compute.reduce("sum"),
    "REDUCE_MAX": compute.reduce("reduce_max"),
    "ARG_MAX": compute.arg_max,
    "RESHAPE": shapes.reshape,
    "SQUEEZE": shapes.reshape_to_declared,
    "EXPAND_DIMS": shapes.reshape_to_declared,
    "TRANSPOSE": shapes.transpose,
    "PAD": shapes.pad,
    "PADV2": shapes.pad,
    "CONCATENATION": shapes.concatenation,
    "PACK": shapes.pack,
    "UNPACK": shapes.unpack,
    "SPLIT": shapes.split,
    "SPLIT_V": shapes.split_v,
    "SLICE": shapes.slice_,
    "STRIDED_SLICE": shapes.strided_slice,
    "GATHER": shapes.gather,
    "TILE": shapes.tile,
    "BROADCAST_TO": shapes.broadcast_to,
    "SHAPE": shapes.shape,
    "RESIZE_BILINEAR": shapes.resize("resize_bilinear", 2),
    "RESIZE_NEAREST_NEIGHBOR": shapes.resize("resize_nearest", 0),
}  # fmt: skip
