"""ONNX models made for the tests, and ONNX Runtime's answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from sdk.backends.onnx.emit import EXACT_PRODUCTS
from sdk.graph.ir import Graph

F32 = np.float32
Shape = tuple[int | str, ...]


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), domain: str = "", **attrs: Any) -> onnx.NodeProto:
    """One node, called as its first output."""
    return helper.make_node(op, list(inputs), list(outputs), name=f"node_{outputs[0]}", domain=domain, **attrs)


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Shape], weights: Mapping[str, Any] | None = None, *, opset: int = 18,
          outputs: Sequence[str] = ("y",), dtype: int = TensorProto.FLOAT, **more: Any) -> bytes:  # fmt: skip
    """A model's bytes; the outputs' shapes are left for readers to find out."""
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()],
        **more,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return _typed(helper.make_model(graph, opset_imports=opsets, ir_version=8)).SerializeToString()


def _typed(made: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime wants outputs to have a type; inference finds it, float stands where it does not."""
    try:
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(made).graph.output}
    except Exception:  # inference refuses operators it was told nothing of
        known = {}
    for value in made.graph.output:
        found = known.get(value.name)
        kind = found.type.tensor_type.elem_type if found is not None else 0
        value.type.tensor_type.elem_type = kind or TensorProto.FLOAT
    return made


def one(op: str, inputs: Sequence[np.ndarray], consts: Sequence[Any] = (), *, opset: int = 18, domain: str = "", outputs: int = 1, **attrs: Any) -> bytes:
    """A model of one node: `inputs` are fed, `consts` follow them as initialisers (None leaves an input out)."""
    fed = [f"x{i}" for i in range(len(inputs))]
    stored = {f"c{i}": np.asarray(v) for i, v in enumerate(consts) if v is not None}
    names = fed + [f"c{i}" if v is not None else "" for i, v in enumerate(consts)]
    made = [f"y{i}" for i in range(outputs)]
    return model([node(op, names, made, domain, **attrs)], {n: x.shape for n, x in zip(fed, inputs, strict=True)}, stored, opset=opset, outputs=made)


def session(content: bytes | str | Path, integers: bool = False) -> ort.InferenceSession:
    """ONNX Runtime without its optimiser: every node computes what the standard says.

    integers: the model multiplies uint8 by int8 (QLinearConv, QLinearMatMul). On x86 without VNNI their sums saturate, but where a pass of the
    optimiser may turn the weights to uint8; so the optimiser is on.
    """
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if integers else levels.ORT_DISABLE_ALL
    options.add_session_config_entry(*EXACT_PRODUCTS)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(content if isinstance(content, bytes) else str(content), options, providers=["CPUExecutionProvider"])


def reference(content: bytes | str | Path, values: Sequence[np.ndarray], integers: bool = False) -> list[np.ndarray]:
    """ONNX Runtime's outputs. integers: see `session`."""
    runner = session(content, integers)
    return runner.run(None, {i.name: v for i, v in zip(runner.get_inputs(), values, strict=True)})


def float_nodes(graph: Graph) -> list[str]:
    """What computes on real numbers, besides the conversion of the input."""
    return [n.op for n in graph.nodes if n.op != "quantize" and graph[n.inputs[0]].dtype == "float32"]


def small_cnn(seed: int = 0, size: int = 8) -> bytes:
    """conv, batch norm, relu, depthwise, clip, 1x1, residual add, max pool, flatten, Gemm, softmax on [1, 3, size, size]."""
    rng = np.random.default_rng(seed)

    def w(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(F32)

    half = size // 2
    weights = {
        "w1": w(6, 3, 3, 3), "g": rng.uniform(0.5, 1.5, 6).astype(F32), "be": w(6, 1)[:, 0], "m": w(6, 1)[:, 0], "v": rng.uniform(0.5, 2, 6).astype(F32),
        "w2": w(6, 1, 3, 3), "b2": w(6, 1)[:, 0], "w3": w(6, 6, 1, 1), "b3": w(6, 1)[:, 0], "w4": w(5, 6 * half * half), "b4": w(5, 1)[:, 0],
        "zero": F32(0), "six": F32(6),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "g", "be", "m", "v"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=6),
        node("Clip", ["c2", "zero", "six"], ["r2"]),
        node("Conv", ["r2", "w3", "b3"], ["c3"]),
        node("Add", ["r1", "c3"], ["a"]),
        node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["l"], transB=1),
        node("Softmax", ["l"], ["y"], axis=1),
    ]
    return model(nodes, {"x": (1, 3, size, size)}, weights, opset=17)
