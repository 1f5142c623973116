"""The .onnx importer on whole models: nets as torch exports them, real files, and files that are not sound."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdk
from sdk import cli
from sdk.errors import EmbarqError, ModelError, UnsupportedOp, UsageError
from sdk.golden import check_input, dequantise_array
from sdk.graph.from_onnx import from_onnx
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.passes.pipeline import prepare
from tests.data import ROOT, shared
from tests.strategies import damaged

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.onnx_models import F32, model, node, one, rand, reference, small_cnn  # noqa: E402


def kinds(graph: Graph) -> Counter:
    return Counter(n.op for n in graph.nodes)


def agree(graph: Graph, wanted: list[np.ndarray], values: list[np.ndarray], atol: float = 1e-5) -> None:
    found = run(graph, values)
    for name, value in zip(graph.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=atol)


# ---- nets as torch writes them -----------------------------------------------------------------------------------

NETS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mcunet", "resnet", "encoder", "unet")


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
@pytest.mark.parametrize("name", NETS)
def test_exported_net(name: str, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    from tests import onnx_nets

    content = onnx_nets.exported(name, dynamo)
    values = onnx_nets.samples(name, 1)
    with torch.no_grad():
        wanted = [onnx_nets.net(name)(torch.from_numpy(values[0])).numpy()]
    graph = from_onnx(content)
    assert "opaque" not in kinds(graph)
    agree(graph, wanted, values)
    agree(prepare(graph), wanted, values)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mcunet", "resnet"])
def test_passes_leave_one_transpose_at_the_input(name: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests import onnx_nets

    graph = prepare(from_onnx(onnx_nets.exported(name)))
    turned = [n for n in graph.nodes if n.op == "transpose"]
    assert [n.inputs for n in turned] == [graph.inputs]
    assert not {"batch_norm", "relu", "relu6"} & set(kinds(graph))
    last = prepare(from_onnx(onnx_nets.exported(name), input_layout="nhwc"))
    assert "transpose" not in kinds(last) and last[last.inputs[0]].shape == (1, 16, 16, 3)
    (x,) = onnx_nets.samples(name, 1)
    np.testing.assert_allclose(run(last, [x.transpose(0, 2, 3, 1)])[last.outputs[0]], run(graph, [x])[graph.outputs[0]], rtol=1e-5, atol=1e-6)


def test_transformer_is_made_of_whole_ops() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests import onnx_nets

    for content in (onnx_nets.exported("encoder"), onnx_nets.exported("encoder", False)):
        found = kinds(prepare(from_onnx(content)))
        assert (found["layer_norm"], found["gelu"], found["softmax"]) == (2, 1, 1)


# ---- real files --------------------------------------------------------------------------------------------------

REAL = {
    "mobilenet_v2_0.35_128_tfs_channel_first.onnx": {"conv2d": 35, "depthwise_conv2d": 17, "add": 10, "transpose": 1, "mean": 1, "dense": 1, "softmax": 1},
    "st_ssd_mobilenet_v1_025_256.onnx": {"conv2d": 36, "depthwise_conv2d": 17, "resize_bilinear": 5, "add": 5, "transpose": 1, "softmax": 1},
    "yamnet_256_64x96_tl.onnx": {"conv2d": 6, "depthwise_conv2d": 5, "transpose": 1, "mean": 1, "dense": 1, "softmax": 1},
}


@pytest.mark.parametrize("name", REAL)
def test_real_file(name: str) -> None:
    path = shared(f"models_extra/{name}")
    loaded = sdk.load(path)
    assert loaded.kind == "onnx" and loaded.name == path.stem and not loaded.is_quantised
    values = [rand(*loaded.graph[loaded.graph.inputs[0]].shape)]
    wanted = reference(path, values)
    agree(loaded.graph, wanted, values)
    clean = prepare(loaded.graph)
    agree(clean, wanted, values)
    found = kinds(clean)
    assert found | Counter(REAL[name]) == found and not found.keys() & {"opaque", "batch_norm", "relu", "relu6", "pad"}
    assert found["transpose"] == 1


def test_detector_plans_or_says_how_much_is_missing() -> None:
    plan = sdk.plan("stm32h743", shared("models_extra/st_ssd_mobilenet_v1_025_256.onnx"))
    assert plan.fits or (plan.shortfall and plan.mends)


@pytest.mark.long
def test_real_file_from_onnx_to_the_emulated_board() -> None:
    """Float ONNX, calibrated with pictures, quantised, planned, compiled, run: the interpreter's bytes, and ONNX Runtime's classes."""
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    path = shared("models_extra/mobilenet_v2_0.35_128_tfs_channel_first.onnx")
    with np.load(shared("cifar10/cifar10_lossless_train4000.npz")) as data:
        pictures = (data["x"][:36].astype(F32) / F32(127.5) - 1).repeat(4, 1).repeat(4, 2).transpose(0, 3, 1, 2)
    plan = sdk.plan("stm32h743", path, calibration=pictures[:32])
    assert plan.fits
    with sdk.compile(plan).flash("emulator") as board:  # proves the golden vectors on the way
        graph, clear = plan.graph, 0  # type: ignore[union-attr]
        for x in pictures[32:, None]:
            found, wanted = board.run(x), reference(path, [x])[0]
            source, out = graph[graph.inputs[0]], graph[graph.outputs[0]]
            assert np.array_equal(found, dequantise_array(out, run(graph, [check_input(source, x)])[out.name]))
            assert np.abs(found - wanted).max() < 0.08
            if np.diff(np.sort(wanted.reshape(-1))[-2:]) > 0.08:  # a lead that 8 bits cannot turn round
                clear += 1
                assert found.argmax() == wanted.argmax()
    assert clear >= 2


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "importers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/importers.md", "exec"), {})
    assert "net on stm32f405: fits" in capsys.readouterr().out


# ---- shapes that are not fixed, weights elsewhere ----------------------------------------------------------------


def test_free_batch_needs_an_example_or_a_number() -> None:
    content = model([node("Relu", ["x"])], {"x": ("N", 4)})
    with pytest.raises(ModelError, match=r"'N' is not fixed; give the batch \(batch=1, or --batch 1\), or give an example"):
        from_onnx(content)
    assert from_onnx(content, batch=2)["x"].shape == (2, 4)
    assert from_onnx(content, rand(3, 4))["x"].shape == (3, 4)
    assert from_onnx(content, {"x": rand(3, 4)})["x"].shape == (3, 4)


def test_free_batch_through_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(model([node("Relu", ["x"])], {"x": ("N", 3, "H", 5)}))
    graph = sdk.load(tmp_path / "net.onnx", rand(1, 3, 4, 5), input_layout="nhwc").graph
    assert graph["x"].shape == (1, 4, 5, 3)
    with pytest.raises(ModelError, match="'H' is not fixed; export the model with fixed sizes"):
        sdk.load(tmp_path / "net.onnx", batch=1)
    (tmp_path / "open.onnx").write_bytes(model([node("Relu", ["x"])], {"x": ("N", 4)}))
    assert sdk.load(tmp_path / "open.onnx", batch=2).graph["x"].shape == (2, 4)
    assert cli.main(["plan", "stm32f405", str(tmp_path / "open.onnx")]) == 2
    assert "give the batch" in capsys.readouterr().err
    assert cli.main(["plan", "stm32f405", str(tmp_path / "open.onnx"), "--batch", "1"]) == 0
    for wrong, sentence in ((0, "give 1 or more"), (1, "only .onnx files")):
        with pytest.raises(UsageError, match=sentence):
            sdk.load(tmp_path / ("open.onnx" if wrong == 0 else "net.tflite"), batch=wrong)


def test_shapes_computed_from_the_input_are_known() -> None:
    """Flatten as older exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["n"]), node("Unsqueeze", ["n"], ["u"], axes=[0]),
             node("Concat", ["u", "m"], ["t"], axis=0), node("Reshape", ["x", "t"])]  # fmt: skip
    content = model(nodes, {"x": ("N", 4, 3)}, {"i": np.array(0), "m": np.array([-1])}, opset=11)
    graph = from_onnx(content, batch=2)
    assert kinds(graph) == {"reshape": 1} and graph["y"].shape == (2, 12)


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (rand(2, 5), r"input x has shape \['N', 4\] and the example \[2, 5\]; give an example of the model's shape"),
        ({"z": rand(2, 4)}, "the example names the input 'z', which the model does not have; its inputs are x"),
        ((rand(2, 4), rand(2, 4)), r"the example has 2 arrays and the model 1 inputs \(x\); give one each"),
    ],
)
def test_unfit_example(example: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        from_onnx(model([node("Relu", ["x"])], {"x": ("N", 4)}), example)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    x = rand(2, 4)
    made = onnx.load_from_string(one("Gemm", [x], [rand(4, 64), rand(64)]))
    onnx.save_model(made, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=16)
    agree(sdk.load(tmp_path / "net.onnx").graph, reference(tmp_path / "net.onnx", [x]), [x])
    content = (tmp_path / "net.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"lie in another file, net.bin; give the path of the .onnx file"):
        from_onnx(content)
    (tmp_path / "net.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"from net.bin; the file is damaged|cannot be decoded"):
        from_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"which is not in the folder of the model; put it there, or save the model in one file"):
        from_onnx(tmp_path / "net.onnx")


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    made = onnx.load_from_string(one("Gemm", [rand(2, 4)], [rand(4, 64), rand(64)]))
    (tmp_path / "in").mkdir()
    onnx.save_model(made, tmp_path / "in" / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=16)
    (tmp_path / "in" / "net.bin").rename(tmp_path / "net.bin")
    content = (tmp_path / "in" / "net.onnx").read_bytes().replace(b"net.bin", b"../n.bi")
    (tmp_path / "n.bi").write_bytes((tmp_path / "net.bin").read_bytes())
    with pytest.raises(ModelError, match="not in the folder of the model"):
        from_onnx(content, folder=tmp_path / "in")


def test_a_model_may_return_what_it_is_given_and_what_it_knows() -> None:
    """Detectors return their anchors, which are constants: computed, or stored under the output's name."""
    c = np.arange(6, dtype=F32).reshape(2, 3)
    content = model([node("Relu", ["x"]), node("Identity", ["x"], ["same"]), node("Neg", ["c"], ["known"])], {"x": (2, 3)}, {"c": c},
                    outputs=["y", "same", "known", "c"])  # fmt: skip
    x = rand(2, 3)
    graph = from_onnx(content)
    assert graph.outputs == ("y", "same", "known", "c")
    for made in (graph, prepare(graph)):
        agree(made, reference(content, [x]), [x])
    assert sdk.plan("stm32f405", graph).fits


def test_functions_inside_the_model_are_written_out() -> None:
    made = onnx.load_from_string(model([node("Twice", ["x"], domain="local")], {"x": (2, 3)}, {}))
    opsets = [onnx.helper.make_opsetid("", 18)]
    made.functions.append(onnx.helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets))
    made.opset_import.append(onnx.helper.make_opsetid("local", 1))
    x = rand(2, 3)
    np.testing.assert_array_equal(run(from_onnx(made.SerializeToString()), [x])["y"], x + x)


def test_half_precision_is_widened() -> None:
    x = rand(2, 4)
    w = rand(4, 3).astype(np.float16)
    content = model([node("Cast", ["w"], ["f"], to=1), node("MatMul", ["x", "f"])], {"x": (2, 4)}, {"w": w})
    np.testing.assert_allclose(run(from_onnx(content), [x])["y"], x @ w.astype(F32), rtol=1e-6)


# ---- files that are not sound ------------------------------------------------------------------------------------


def nan() -> np.ndarray:
    w = rand(4, 3)
    w[1, 2] = np.nan
    return w


BAD = {
    "empty": (b"", "names no opset; it is truncated or damaged, so export it again"),
    "text": (b"this is no model at all, but a sentence", "is not an ONNX model, or is truncated or damaged; export it again"),
    "truncated": (small_cnn()[:-300], "truncated or damaged"),
    "NaN weights": (one("MatMul", [rand(2, 4)], [nan()]), r"weights 'c0' hold NaN or infinity; train again or load another checkpoint \(at ONNX node MatMul"),
    "old opset": (one("Relu", [rand(2, 4)], opset=6), r"has opset 6; 7 to \d+ are read, so export it with one of these"),
    "shape mismatch": (one("Conv", [rand(1, 4, 5, 5)], [rand(6, 3, 3, 3)]), r"weight \[6, 3, 3, 3\] with 1 groups does not fit input \[1, 5, 5, 4\]"),
    "no such axis": (one("Softmax", [rand(2, 4)], axis=5), "cannot be read .axis 5 does not exist in .2, 4..; the file is damaged, so export it again"),
    "broadcast": (one("Add", [rand(2, 4), rand(3, 4)]), r"shapes \[2, 4\] and \[3, 4\] do not broadcast"),
    "absent input": (model([node("Conv", ["x"])], {"x": (1, 3, 4, 4)}), "has no input 1; the file is damaged, so export it again"),
    "nothing writes it": (model([node("Add", ["x", "z"])], {"x": (1, 3)}), "reads 'z' before anything has written it"),
    "output of nothing": (model([node("Relu", ["x"], ["h"])], {"x": (1, 3)}), "the output 'y' is computed by no node"),
    "no shape, no handler": (model([node("Mystery", ["x"], domain="com.microsoft")], {"x": (1, 3)}),
                             "the operator Mystery is unknown and its output 'y' has no declared shape; replace it in the source model"),
    "strings": (model([node("Relu", ["x"])], {"x": (1, 3)}, dtype=8), "input x has the ONNX data type 8, which is not read"),
    "huge constant": (model([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"])], {"x": (1, 3)}, {"s": np.array([1 << 20, 1 << 20])}),
                      r"computes a constant of shape \[1048576, 1048576\]; the file is damaged"),
    "bad index": (one("Gather", [rand(2, 4)], [np.array([7])], axis=1), r"an index is not in 0\.\.3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_told_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, sentence = BAD[name]
    with pytest.raises(ModelError, match=sentence) as raised:
        from_onnx(content)
    assert "\n" not in str(raised.value)
    (tmp_path / "bad.onnx").write_bytes(content)
    assert cli.main(["plan", "stm32f405", str(tmp_path / "bad.onnx")]) == ModelError.exit_code
    said = capsys.readouterr().err
    assert "bad.onnx" in said and "Traceback" not in said


def test_unknown_operator_becomes_opaque_and_firmware_refuses_it() -> None:
    content = model([node("Relu", ["x"], ["h"]), node("Det", ["h"])], {"x": (1, 3, 3)})
    graph = from_onnx(content)
    (opaque,) = [n for n in graph.nodes if n.op == "opaque"]
    assert opaque.attrs["kind"] == "Det" and graph[opaque.outputs[0]].shape == (1,) and opaque.source == "ONNX node Det node_y"
    with pytest.raises(UnsupportedOp, match="Det"):
        sdk.plan("stm32f405", graph)


@settings(max_examples=300)
@given(damaged(small_cnn()))
def test_any_damage_is_told(content: bytes) -> None:
    try:
        verify(from_onnx(content))
    except EmbarqError as error:
        assert "\n" not in str(error) and str(error)


@settings(max_examples=60)
@given(st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_told(share: float) -> None:
    content = small_cnn()
    content = content[: int(share * (len(content) - 40))]  # the last bytes name the versions of operators that nothing uses
    with pytest.raises(EmbarqError):
        verify(from_onnx(content))


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_damage_in_real_files_is_told(name: str) -> None:
    content = shared(f"models_extra/{name}").read_bytes()

    @settings(max_examples=150)
    @given(damaged(content))
    def damage(broken: bytes) -> None:
        try:
            verify(from_onnx(broken))
        except EmbarqError as error:
            assert "\n" not in str(error)

    damage()
