"""What the runner decides about TensorRT on a Jetson: build, keep, refuse, fall back. The fake module computes nothing; ONNX Runtime is real."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.runner import tensorrt_build as building
from sdk.runner.cuda import Gpu
from sdk.runner.engines import open_engine
from sdk.runner.errors import BadRequest, EngineRefused
from tests import fake_tensorrt as fake
from tests.onnx_models import model as made_model
from tests.onnx_models import node, rand, reference

OPTIONS = {"flags": ["fp16", "int8"], "workspace_bytes": 64 << 20, "tensorrt_min": "8.5", "weights_bytes": 1, "opset": 17}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(made_model([node("MatMul", ["x", "w"])], {"x": (1, 4)}, {"w": rand(4, 2)}, opset=17))
    return file


def opened(path: Path, monkeypatch: Any, trt: Any = None, cuda: Any = None, **options: Any) -> tuple[Any, Any]:
    trt = trt or fake.module()
    fake.install(monkeypatch, trt, cuda or fake.Cuda())
    return open_engine("tensorrt", str(path), 1, {**OPTIONS, **options}), trt.calls


def engines(path: Path) -> list[Path]:
    return sorted((path.parent / "engines").glob("*.engine"))


# ---- build and keep ----


def test_the_engine_is_built_once_and_kept_with_what_it_belongs_to(path, monkeypatch):
    engine, calls = opened(path, monkeypatch)
    assert (engine.name, engine.version, engine.note, calls.built) == ("tensorrt", "8.5.2.2", "", 1)
    assert (calls.flags, calls.workspace_bytes, calls.network_flags) == (["FP16", "INT8"], 64 << 20, 1)
    record = json.loads(next((path.parent / "engines").glob("*.json")).read_text())
    assert record["key"]["onnx_sha256"] == building.file_sha256(path)
    assert {"tensorrt", "cuda_driver", "cuda_runtime", "gpu", "capability", "flags"} <= record["key"].keys()
    again, calls = opened(path, monkeypatch)
    assert (calls.built, calls.deserialised, again.note) == (0, [b"engine 1 of 8.5.2.2"], "")


def test_an_older_tensorrt_is_spoken_to_in_its_own_calls(path, monkeypatch):
    engine, calls = opened(path, monkeypatch, fake.module("8.2.1.8"), tensorrt_min="8.2")
    assert (engine.name, calls.workspace_bytes) == ("tensorrt", 64 << 20)
    assert (engine.inputs, engine.outputs) == ([("x", (1, 4), "float32")], [("y", (1, 2), "float32")])


def test_memory_on_the_gpu_is_lent_and_given_back(path, monkeypatch):
    cuda = fake.Cuda()
    engine, _ = opened(path, monkeypatch, cuda=cuda)
    assert engine.run([np.ones((1, 4), np.float32)])[0].shape == (1, 2)
    assert sorted(map(len, cuda.lent.values())) == [8, 16]
    assert engine.profile([np.ones((1, 4), np.float32)], 2) == []
    engine.close()
    assert cuda.lent == {}


def test_whole_numbers_keep_the_width_the_model_has(path, monkeypatch):
    """TensorRT 8 binds int64 as int32; whoever calls goes by the model."""
    trt = fake.module()
    trt.nptype = lambda kind: np.int32
    engine, _ = opened(path, monkeypatch, trt, dtypes={"x": "int64", "y": "int64"})
    assert (engine.inputs[0][2], engine.outputs[0][2]) == ("int64", "int64")
    assert engine.run([np.ones((1, 4), np.int64)])[0].dtype == np.int64


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu", Gpu("Thor", "8.7", 12020, 12020)), ("gpu", Gpu("Orin", "8.6", 12020, 12020)), ("gpu", Gpu("Orin", "8.7", 12060, 12020)),
     ("gpu", Gpu("Orin", "8.7", 12020, 12060)), ("trt", "10.3.0"), ("flags", ["fp16"]), ("workspace_bytes", 32 << 20), ("onnx", None)],
)  # fmt: skip
def test_an_engine_of_anything_else_is_foreign_and_never_read(path, monkeypatch, field, value):
    opened(path, monkeypatch)
    trt, cuda, options = fake.module(value if field == "trt" else "8.5.2.2"), fake.Cuda(), {}
    if field == "gpu":
        cuda = fake.Cuda(gpu=value)
    elif field == "onnx":
        path.write_bytes(made_model([node("MatMul", ["x", "w"])], {"x": (1, 4)}, {"w": rand(4, 2, seed=5)}, opset=17))
    elif field != "trt":
        options = {field: value}
    engine, calls = opened(path, monkeypatch, trt, cuda, **options)
    assert calls.built == 1 and "is foreign: its " in engine.note
    assert calls.deserialised == [b"engine 1 of " + trt.__version__.encode()]
    assert len(engines(path)) == 2, "the other device's engine is left alone"


def test_a_changed_engine_is_never_read(path, monkeypatch):
    opened(path, monkeypatch)
    engines(path)[0].write_bytes(b"something else")
    engine, calls = opened(path, monkeypatch)
    assert "hash mismatch" in engine.note and calls.built == 1
    assert b"something else" not in calls.deserialised


def test_an_engine_whose_note_was_copied_from_elsewhere_is_never_read(path, monkeypatch):
    opened(path, monkeypatch)
    note = next((path.parent / "engines").glob("*.json"))
    record = json.loads(note.read_text())
    record["key"]["gpu"] = "Xavier"
    note.write_text(json.dumps(record))
    engine, calls = opened(path, monkeypatch)
    assert "its gpu is 'Xavier' and here it is 'Orin'" in engine.note
    assert calls.built == 1 and len(calls.deserialised) == 1


@pytest.mark.parametrize("content", ["not json", "[]", "{}", '{"key": 3}'])
def test_a_damaged_note_means_a_new_engine(path, monkeypatch, content):
    opened(path, monkeypatch)
    next((path.parent / "engines").glob("*.json")).write_text(content)
    engine, calls = opened(path, monkeypatch)
    assert calls.built == 1 and "a new one is built" in engine.note
    assert opened(path, monkeypatch)[1].built == 0, "and is then kept"


def test_keeping_is_all_or_nothing(path, monkeypatch):
    """Cut between the engine and its note, the engine is not used."""
    cache, key = building.Cache(path.parent / "engines"), key_for(path)
    cache.keep(key, b"first")
    written = building._write

    def cut(target: Path, content: bytes) -> None:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        written(target, content)

    monkeypatch.setattr(building, "_write", cut)
    assert "No space left on device" in cache.keep(key, b"second")
    assert cache.find(key)[0] is None
    monkeypatch.undo()
    cache.keep(key, b"third")
    assert cache.find(key) == (b"third", "")
    assert not list(cache.folder.glob(".*")), "nothing half-written is left"


def test_an_artifact_that_cannot_be_written_to_still_runs(path, monkeypatch):
    (path.parent / "engines").write_text("a file in the way")
    engine, calls = opened(path, monkeypatch)
    assert engine.name == "tensorrt" and calls.built == 1
    assert "could not be kept" in engine.note


def key_for(path: Path) -> building.Key:
    return building.key_of(path, "8.5.2.2", fake.Cuda().gpu, OPTIONS)


def test_every_fact_changes_the_key(path):
    key = key_for(path)
    others = [replace(key, **{name: "other"}) for name in key.record() if name != "flags"] + [replace(key, flags=("fp16",))]
    assert len({k.digest for k in [key, *others]}) == len(others) + 1


# ---- refuse ----


@pytest.mark.parametrize("name", ["model.engine", "model.plan", "MODEL.TRT"])
def test_a_ready_made_engine_is_refused(tmp_path, monkeypatch, name):
    trt = fake.module()
    fake.install(monkeypatch, trt, fake.Cuda())
    (tmp_path / name).write_bytes(b"engine")
    with pytest.raises(EngineRefused, match="belongs to the machine that built it"):
        open_engine("tensorrt", str(tmp_path / name), 1, OPTIONS)
    assert trt.calls.deserialised == []


def test_an_unknown_option_is_refused(path, monkeypatch):
    with pytest.raises(BadRequest, match="tensorrt has no option 'wrokspace'"):
        opened(path, monkeypatch, wrokspace=1)


# ---- memory ----


def test_memory_is_checked_before_anything_is_built(path, monkeypatch):
    cuda = fake.Cuda(free=100 << 20)
    engine, calls = opened(path, monkeypatch, cuda=cuda)
    assert calls.built == 0
    assert engine.name == "onnx"
    assert "needs about 576 MiB (workspace 64, weights 5 x 0, libraries 512) and CUDA has 100 MiB free" in engine.note


def test_the_least_free_memory_counts():
    need = building.needed_bytes(10 << 20, 64 << 20)
    assert need == (64 + 50 + 512) << 20
    building.check_memory(10 << 20, 64 << 20, {"the system": need, "CUDA": None})
    with pytest.raises(EngineRefused, match="the system has 600 MiB free; close other programs"):
        building.check_memory(10 << 20, 64 << 20, {"the system": 600 << 20, "CUDA": 8 << 30})


def test_free_memory_is_read_from_meminfo(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 4059000 kB\nMemFree: 100 kB\nMemAvailable:    1234 kB\n")
    assert building.available_bytes(tmp_path / "meminfo") == 1234 * 1024
    assert building.available_bytes(tmp_path / "absent") is None


def test_a_kept_engine_needs_no_memory_for_building(path, monkeypatch):
    opened(path, monkeypatch)
    engine, calls = opened(path, monkeypatch, cuda=fake.Cuda(free=1 << 20))
    assert (engine.name, calls.built, len(calls.deserialised)) == ("tensorrt", 0, 1)


# ---- fall back ----


def falls_back(path: Path, engine: Any, says: str) -> None:
    """ONNX Runtime's CPU runs, with the right numbers, and the note says why."""
    assert engine.name == "onnx" and says in engine.note, engine.note
    assert engine.note.startswith("ONNX Runtime on the CPU runs the model instead of TensorRT: ")
    x = rand(1, 4, seed=2)
    assert np.allclose(engine.run([x])[0], reference(path.read_bytes(), [x])[0], atol=1e-6)


def test_without_tensorrt(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    falls_back(path, open_engine("tensorrt", str(path), 1, OPTIONS), "TensorRT is not usable from this Python")


def test_without_cuda(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
    engine = open_engine("tensorrt", str(path), 1, OPTIONS)  # this computer's own libraries
    falls_back(path, engine, "libcud" if "libcud" in engine.note else "CUDA")


@pytest.mark.parametrize(
    ("trt", "says"),
    [
        (fake.module("8.0.1"), "TensorRT 8.0.1 is older than 8.5, which the artifact was written for"),
        (fake.module(fast_int8=False), "Orin (compute capability 8.7) has no int8 in TensorRT; compile with precision float16"),
        (fake.module(parses=False), "cannot read model.onnx: In node 3 (importMish): UNSUPPORTED_NODE"),
        (fake.module(builds=False), "Could not find any implementation for node conv1"),
        (fake.module("11.0.0", flags=()), "TensorRT 11.0.0 has no build flag FP16"),
    ],
)
def test_what_tensorrt_refuses_is_run_by_onnx_runtime(path, monkeypatch, trt, says):
    engine, calls = opened(path, monkeypatch, trt)
    falls_back(path, engine, says)
    assert engines(path) == [] and calls.deserialised == []


def test_a_flag_of_a_newer_embarq_is_refused_not_ignored(path, monkeypatch):
    engine, calls = opened(path, monkeypatch, flags=["fp4"])
    falls_back(path, engine, "'fp4', which this runner does not know")
    assert calls.built == 0


def test_cuda_is_tried_before_the_cpu_and_what_started_is_told(path, monkeypatch):
    """This ONNX Runtime says it has CUDA and cannot start it: the note must not claim that CUDA runs."""
    import onnxruntime

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    engine = open_engine("tensorrt", str(path), 1, OPTIONS)
    assert engine.name == "onnx"
    assert "its CUDA did not start" in engine.note or "on CUDA refused too" in engine.note


def test_where_nothing_takes_the_model_both_reasons_are_told(path, monkeypatch):
    path.write_bytes(b"no model")
    with pytest.raises(EngineRefused, match=r"no engine took the model; TensorRT: .*TensorRT .*ONNX Runtime .* does not open"):
        opened(path, monkeypatch, fake.module(parses=False))


def test_the_options_of_the_backend_and_of_the_runner_are_the_same_words():
    """A manifest holds the recipe's options beside the payload's: the runner must know every one."""
    from sdk.backends import tensorrt
    from sdk.runner import tensorrt_engine

    assert set(tensorrt.OPTIONS) <= {*tensorrt_engine.OPTIONS, *tensorrt_engine.DECIDED}


def test_a_plan_for_a_jetson_becomes_an_artifact(tmp_path):
    """Without a Jetson at hand: proved here on ONNX Runtime, the Nano's opset in it, int8 not among its recipes."""
    import onnx

    import sdk
    from tests.onnx_models import small_cnn

    (tmp_path / "net.onnx").write_bytes(small_cnn())
    given = [rand(1, 3, 8, 8, seed=i) for i in range(8)]
    plan = sdk.plan("jetson-nano", sdk.load(tmp_path / "net.onnx"), backend="tensorrt", precision="float16", threads=1, calibration=given)
    sdk.compile(plan).save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["options"]["flags"] == ["fp16"]
    assert manifest["recipe"]["options"]["tensorrt_min"] == "8.2"
    assert onnx.load(tmp_path / "out" / manifest["entry"]).opset_import[0].version == 13
    with pytest.raises(sdk.errors.EmbarqError, match=r"compute capability 5\.3\) has no int8"):
        sdk.plan("jetson-nano", sdk.load(tmp_path / "net.onnx"), backend="tensorrt", precision="int8", threads=1, calibration=given)


def test_an_artifact_of_the_backend_opens_here(tmp_path, monkeypatch):
    """The payload's own file and options, through the runner, on this computer's CPU."""
    import sdk
    from sdk.backends import tensorrt
    from sdk.planner.recipes import Recipe
    from tests.onnx_models import small_cnn

    (tmp_path / "float.onnx").write_bytes(small_cnn())
    payload = tensorrt.emit(sdk.load(tmp_path / "float.onnx"), Recipe("tensorrt", "int8"), [rand(1, 3, 8, 8, seed=i) for i in range(8)])
    (tmp_path / "model.onnx").write_bytes(payload.files["model.onnx"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    engine = open_engine("tensorrt", str(tmp_path / "model.onnx"), 1, dict(payload.options))
    x = rand(1, 3, 8, 8, seed=50)
    assert np.abs(engine.run([x])[0] - reference(small_cnn(), [x])[0]).max() < 0.05
    assert [shape for _, shape, _ in engine.inputs] == [p.shape for p in payload.inputs]
