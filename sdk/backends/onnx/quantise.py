"""int8 for ONNX Runtime: calibrated (QDQ) or with activations scaled at run time (dynamic), by its own quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdk.backends.foreign import one_sentence, require
from sdk.errors import UsageError

#: Layers that hold weights: what int8 is for. In a transformer nothing else is worth an integer.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: What may stand between such layers and has an integer kernel, so that a convolutional net stays in integers from end to end.
BETWEEN = ("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "MaxPool", "AveragePool", "GlobalAveragePool",
           "Concat", "Pad", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice")  # fmt: skip
#: Integer layers whose results stay float: the kernel gives float as fast, and what follows (the model's output, a layer norm, a gelu) wants float.
FLOAT_RESULT = ("Gemm", "MatMul")
#: recipe option -> values; the first is the default.
OPTIONS: Mapping[str, tuple[Any, ...]] = {"activations": ("uint8", "int8"), "reduce_range": (False, True), "range": ("minmax", "percentile", "entropy")}
_MEND = "choose precision float32 or backend executorch"


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All of OPTIONS, those of the recipe first. Raises UsageError for an unknown one."""
    for key, value in given.items():
        if key not in OPTIONS:
            raise UsageError(f"backend onnx has no option {key!r}; known are {', '.join(OPTIONS)}")
        if value not in OPTIONS[key]:
            raise UsageError(f"option {key} is {value!r}; choose one of {', '.join(map(str, OPTIONS[key]))}")
    return {key: given.get(key, values[0]) for key, values in OPTIONS.items()}


def static_int8(proto: Any, feeds: Sequence[Mapping[str, np.ndarray]], given: Mapping[str, Any], name: str) -> Any:
    """`proto` with int8 weights (one scale per channel, symmetric) and calibrated activations, as QuantizeLinear/DequantizeLinear pairs.

    Activations are uint8 with a zero point by default: on x86 with VNNI (AMD EPYC, ONNX Runtime 1.32) as accurate as int8
    ones to 0.1 dB and up to four times faster (MobileNetV2: 1.7 ms beside 7.6), because only then a clip disappears into the
    convolution before it and the products need no re-basing; on ARM both have their kernels.
    Symmetric activations lost 2 to 4 dB.
    """
    q = require("onnxruntime.quantization", "onnxruntime", "quantising for ONNX Runtime")
    chosen = options(given)
    with one_sentence(f"ONNX Runtime cannot quantise {name}", _MEND), tempfile.TemporaryDirectory() as folder:
        ready, out = prepared(proto, Path(folder)), Path(folder) / "int8.onnx"
        folded = _load(ready)
        q.quantize_static(
            str(ready),
            str(out),
            _reader(q, feeds),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=list(op_types(folded)),
            nodes_to_exclude=list(weightless(folded)),
            per_channel=True,
            reduce_range=chosen["reduce_range"],
            activation_type=q.QuantType.QUInt8 if chosen["activations"] == "uint8" else q.QuantType.QInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=_method(q, chosen["range"]),
            extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": list(FLOAT_RESULT)},
        )
        return _load(out)


def dynamic_int8(proto: Any, given: Mapping[str, Any], name: str) -> Any:
    """`proto` with the weights of its matrix multiplications in int8, one scale per channel; activations are scaled while it runs."""
    q = require("onnxruntime.quantization", "onnxruntime", "quantising for ONNX Runtime")
    chosen = options(given)
    with one_sentence(f"ONNX Runtime cannot quantise {name}", _MEND), tempfile.TemporaryDirectory() as folder:
        ready, out = prepared(proto, Path(folder)), Path(folder) / "int8.onnx"
        q.quantize_dynamic(
            str(ready),
            str(out),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=chosen["reduce_range"],
            weight_type=q.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return _load(out)


def op_types(proto: Any) -> tuple[str, ...]:
    """What to quantise: in a transformer (it normalises layers) the layers with weights only, else all with integer kernels.

    Attention and what stands around it in integers cost ViT-Tiny 14 dB and gained no time.
    """
    transformer = any(node.op_type in ("LayerNormalization", "RMSNormalization", "Softmax") and _is_inner(proto, node) for node in proto.graph.node)
    return WEIGHTED if transformer else WEIGHTED + BETWEEN


def weightless(proto: Any) -> Iterator[str]:
    """Names of matrix products of two activations, which is what attention is made of."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    return (node.name for node in proto.graph.node if node.op_type == "MatMul" and not stored & set(node.input))


def _is_inner(proto: Any, node: Any) -> bool:
    """False for a softmax that gives the model's output: a classifier's, not attention's."""
    return not any(value.name in node.output for value in proto.graph.output)


def prepared(proto: Any, folder: Path) -> Path:
    """The model with constants folded and batch norms gone into their convolutions, every shape inferred: what the quantiser wants."""
    import onnx
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # further levels write nodes the quantiser does not know
    settings.optimized_model_filepath = str(folder / "folded.onnx")
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    ready = folder / "ready.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(_load(folder / "folded.onnx")), str(ready))
    return ready


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _method(q: Any, name: str) -> Any:
    methods = {"minmax": q.CalibrationMethod.MinMax, "percentile": q.CalibrationMethod.Percentile, "entropy": q.CalibrationMethod.Entropy}
    return methods[name]


def _reader(q: Any, feeds: Sequence[Mapping[str, np.ndarray]]) -> Any:
    class Reader(q.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Hands out the samples one by one."""

        def __init__(self) -> None:
            self.left: Iterator[Mapping[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.left, None)

    return Reader()
