"""ONNX nets that onnxruntime quantised: their integers, their results, and a board that runs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdk
from sdk.golden import check_input, dequantise_array
from sdk.graph.from_onnx import from_onnx
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.passes.pipeline import prepare

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402

from tests.onnx_models import F32, float_nodes, reference  # noqa: E402


def quantise(name: str, folder: Path, form: str, kind: str, per_channel: bool) -> bytes:
    """A net of `tests.onnx_nets`, calibrated and quantised by onnxruntime."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from tests import onnx_nets

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rows = iter([{"x": x} for x in onnx_nets.samples(name)])

        def get_next(self) -> Any:
            return next(self.rows, None)

    (folder / "float.onnx").write_bytes(onnx_nets.exported(name))
    quant_pre_process(folder / "float.onnx", folder / "clean.onnx")
    quantization.quantize_static(
        folder / "clean.onnx", folder / "int8.onnx", Reader(), per_channel=per_channel, weight_type=quantization.QuantType.QInt8,
        quant_format=getattr(quantization.QuantFormat, form), activation_type=getattr(quantization.QuantType, kind),
    )  # fmt: skip
    return (folder / "int8.onnx").read_bytes()


FORMS = [("QDQ", "QInt8", True), ("QDQ", "QUInt8", False), ("QOperator", "QUInt8", True), ("QOperator", "QInt8", False)]


@pytest.mark.parametrize(("form", "kind", "per_channel"), FORMS)
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "resnet", "encoder"])
def test_statically_quantised_net(name: str, form: str, kind: str, per_channel: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests import onnx_nets

    content = quantise(name, tmp_path, form, kind, per_channel)
    graph = from_onnx(content, float_io=True)
    verify(graph)
    assert "opaque" not in [n.op for n in graph.nodes]
    # onnxruntime has no QLinear form of a layer norm, and leaves what is next to it in real numbers
    assert set(float_nodes(graph)) <= ({"layer_norm", "reshape", "mean"} if (name, form) == ("encoder", "QOperator") else set())
    clean = prepare(graph)
    _check_integers(clean, content)
    scale = clean[clean.nodes[-1].inputs[0]].scale
    for x in onnx_nets.samples(name, 4):
        apart = np.abs(run(clean, [x])[clean.outputs[0]] - reference(content, [x], (form, kind) == ("QOperator", "QUInt8"))[0]).max() / scale
        assert apart <= 3 + 1e-3, "layers that are a step off at most do not end many steps apart"


def _check_integers(graph: Graph, content: bytes) -> None:
    """Every int8 weight with an origin holds the file's integers; at least one does."""
    made = onnx.load_from_string(content)
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    weights = [graph[n.inputs[1]] for n in graph.nodes if n.op in ("conv2d", "depthwise_conv2d", "dense") and graph[n.inputs[1]].dtype == "int8"]
    assert weights
    for tensor in weights:
        assert tensor.data is not None and tensor.quant is not None
        assert np.array_equal(np.sort(tensor.data, axis=None), np.sort(stored[tensor.origin or ""], axis=None))
        named = [v for k, v in stored.items() if k.startswith((tensor.origin or "").removesuffix("_quantized") + "_scale")]
        assert named and np.array_equal(np.ravel(named[0]), np.array(tensor.quant.scale, F32))


def test_quantised_net_runs_on_the_emulated_board(tmp_path: Path) -> None:
    for package in ("torch", "onnxscript", "unicorn", "ziglang"):
        pytest.importorskip(package)
    from tests import onnx_nets

    quantise("mobilenet_v2", tmp_path, "QDQ", "QInt8", True)
    loaded = sdk.load(tmp_path / "int8.onnx")
    assert loaded.is_quantised
    plan = sdk.plan("stm32f405", loaded)
    assert plan.fits
    (x,) = onnx_nets.samples("mobilenet_v2", 1)
    with sdk.compile(plan).flash("emulator") as board:  # proves the golden vectors on the way
        found = board.run(x)  # real values, which are quantised on the way
    graph = prepare(loaded.graph)
    source, out = graph[graph.inputs[0]], graph[graph.outputs[0]]
    assert source.dtype == out.dtype == "int8"
    assert np.array_equal(found, dequantise_array(out, run(graph, [check_input(source, x)])[out.name]))
    assert np.abs(found - reference(tmp_path / "int8.onnx", [x])[0]).max() <= 3 * out.scale
