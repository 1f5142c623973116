"""The command line: what it prints, where, and with which exit code. The library behind it has tests of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sdk
from sdk import cli, errors
from sdk.commands import app, arrays, common
from sdk.graph.ir import Tensor
from tests.data import shared

ROOT = Path(__file__).resolve().parent.parent
NAMES = [command.__name__ for command in app.COMMANDS]
DEVICE = "stm32f405"


def embarq(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    env = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(
        [sys.executable, "-m", "sdk.cli", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def raising(error: BaseException):
    def fail(*_args, **_options):
        raise error

    return fail


@pytest.fixture
def model_file(tmp_path) -> str:
    """A file whose ending says it is a model; what is in it is never read here."""
    path = tmp_path / "net.tflite"
    path.write_bytes(b"")
    return str(path)


# -- help ------------------------------------------------------------------------------------------------------------


def test_the_commands_are_the_twelve_promised():
    assert NAMES == ["devices", "ops", "inspect", "plan", "compile", "fit", "verify", "flash", "run", "profile", "calibrate", "train"]


@pytest.mark.parametrize("name", NAMES)
def test_each_command_explains_itself_with_an_example_and_the_common_options(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert re.search(rf"^\s*embarq {name}\b", text, re.M)
    for option in ("--json", "--quiet", "--seed", "--debug"):
        assert option in text


@pytest.mark.parametrize("name", NAMES)
def test_each_example_in_the_help_uses_options_that_exist(name, capsys):
    cli.main([name, "--help"])
    text = capsys.readouterr().out
    examples = re.findall(rf"^\s*(embarq {name}\b.*)$", text, re.M)
    for example in examples:
        for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", example.split("|")[0]):
            assert re.search(rf"[\s│]{re.escape(option)}\b", text.replace(example, "")), f"{option} in: {example}"


def test_alone_it_prints_its_commands(capsys):
    assert cli.main([]) == 2
    printed = capsys.readouterr()
    assert all(name in printed.out for name in NAMES) and printed.err == ""


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"embarq {sdk.__version__}\n"


# -- errors ----------------------------------------------------------------------------------------------------------

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EmbarqError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_is_one_sentence_on_stderr_with_its_exit_code(kind, monkeypatch, capsys):
    monkeypatch.setattr(sdk, "plan", raising(kind("it went wrong; do this")))
    assert cli.main(["plan", DEVICE]) == kind.exit_code
    assert cli.main(["plan", DEVICE, "--json"]) == kind.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    line, as_json = printed.err.splitlines()
    assert line == "embarq: it went wrong; do this"
    assert json.loads(as_json) == {"error": {"type": kind.__name__, "message": "it went wrong; do this", "exit_code": kind.exit_code}}


def test_a_defect_is_one_sentence_and_the_traceback_only_on_request(monkeypatch, capsys):
    monkeypatch.setattr(sdk, "plan", raising(KeyError("arena")))
    monkeypatch.delenv("EMBARQ_DEBUG", raising=False)
    assert cli.main(["plan", DEVICE]) == 1
    said = capsys.readouterr().err
    assert said == "embarq: a defect of ours (KeyError: 'arena'); please report it with what the same command prints under --debug\n"
    assert cli.main(["plan", DEVICE, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("EMBARQ_DEBUG", "1")
    assert cli.main(["plan", DEVICE]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["plan", DEVICE, "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["plan"], "no device was given"),
        (["compile", DEVICE], "no model was given"),
        (["plan", DEVICE, "a.tflite", "--precision", "int4"], "auto, int8, float32"),
        (["plan", DEVICE, "a.tflite", "--compiler", "icc"], "zig, gcc"),
        (["plan", DEVICE, "other"], "other is no model"),
        (["plan", "a.tflite", "b.onnx"], "both models"),
        (["plan", DEVICE, "a.tflite", "--device", "nrf52840"], "is no model"),
        (["plan", "stm32f4055"], "stm32f405"),
        (["devices", "./nowhere.toml"], "nowhere.toml"),
        (["plan", DEVICE, "nowhere.tflite"], "nowhere.tflite"),
        (["inspect", "nowhere.onnx"], "nowhere.onnx"),
        (["inspect", "model.keras"], ".tflite"),
        (["verify", "nowhere"], "nowhere"),
        (["run", "nowhere", "--input", "x.npy"], "nowhere"),
        (["run", "--seed", "many", "out"], "--seed"),
    ],
)
def test_a_wrong_request_is_told_in_one_line_with_exit_code_2(args, sentence, capsys):
    assert cli.main(args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert sentence in printed.err
    assert cli.main([*args, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def test_a_full_disk_is_told_as_such(monkeypatch, capsys):
    monkeypatch.setattr(sdk, "plan", raising(OSError(28, "No space left on device", "out/model.c")))
    assert cli.main(["plan", DEVICE]) == 2
    assert capsys.readouterr().err == "embarq: cannot read or write out/model.c: No space left on device; free some space\n"


def test_ctrl_c_ends_with_130_and_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sdk, "plan", raising(KeyboardInterrupt()))
    assert cli.main(["plan", DEVICE]) == 130
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "stopped" in printed.err


def test_ctrl_c_while_compiling_leaves_no_folder(monkeypatch, tmp_path, model_file, capsys):
    monkeypatch.setattr(sdk, "load", lambda *_a, **_o: SimpleNamespace(name="net"))
    monkeypatch.setattr(sdk, "plan", lambda *_a, **_o: SimpleNamespace(fits=True))
    monkeypatch.setattr(sdk, "compile", raising(KeyboardInterrupt()))
    assert cli.main(["compile", DEVICE, model_file, "-o", str(tmp_path / "out")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "sdk.cli", "devices", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


# -- which argument is what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("stm32f405", None, None), ("stm32f405", None)),
        (("stm32f405", "net.tflite", None), ("stm32f405", "net.tflite")),
        (("net.ONNX", "./my.toml", None), ("./my.toml", "net.ONNX")),
        (("net.pt2", None, "./my.toml"), ("./my.toml", "net.pt2")),
        ((None, None, "./my.toml"), ("./my.toml", None)),
    ],
)
def test_device_and_model_in_either_order(args, wanted):
    assert common.device_and_model(*args) == wanted


class FakePlan(SimpleNamespace):
    def to_dict(self):
        return {"fits": self.fits, "options": self.options}

    def __str__(self):
        return "the plan"


@pytest.fixture
def planned(monkeypatch):
    """`sdk.load` and `sdk.plan` replaced; what they were asked for is kept in the list."""
    asked = []

    def plan(device, work=None, **options):
        options.pop("progress", None)
        asked.append((device, work, options))
        return FakePlan(fits=device != "tiny", options=options, quant_report="the report")

    monkeypatch.setattr(sdk, "load", lambda source, **options: SimpleNamespace(name="net", source=source, **options))
    monkeypatch.setattr(sdk, "plan", plan)
    return asked


def test_plan_hands_its_options_on(planned, capsys):
    given = ["-c", "pictures", "--precision", "int8", "--keep-input", "--input-layout", "nhwc", "--compiler", "gcc", "--range", "mse"]
    given += ["--int16", "conv_1", "--int16", "conv_2", "--keep-float", "fc", "--report"]
    assert cli.main(["plan", DEVICE, "net.onnx", *given]) == 0
    assert capsys.readouterr().out == "the plan\nthe report\n"
    device, work, options = planned[0]
    assert options.pop("quant") == {"range": "mse", "int16": ["conv_1", "conv_2"], "keep_float": ["fc"]}
    assert options.pop("quant_report") is True
    assert (device, work.source, work.input_layout) == (DEVICE, "net.onnx", "nhwc")
    assert options == {"calibration": "pictures", "precision": "int8", "keep_input": True, "compiler": "gcc"}


def test_naming_layers_without_calibration_is_refused(capsys):
    assert cli.main(["plan", DEVICE, "net.onnx", "--int16", "conv_1"]) == 2
    assert capsys.readouterr().err == "embarq: --int16 says how to quantise, and there is nothing to quantise with; give --calibration DATA\n"


def test_plan_that_does_not_fit_is_printed_and_exits_3(planned, capsys):
    assert cli.main(["plan", "tiny", "net.onnx", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert cli.main(["plan", "tiny", "net.onnx", "--quiet"]) == 3
    assert capsys.readouterr().out == ""


# -- facts -------------------------------------------------------------------------------------------------------------


def test_devices_lists_every_shipped_device(capsys):
    from targets.device import device_names

    assert cli.main(["devices", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(device_names())
    assert cli.main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in device_names())
    assert max(map(len, lines)) <= 100


def test_one_device_is_told_with_the_source_of_each_number(capsys):
    assert cli.main(["devices", DEVICE, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["facts"]["memories.flash.size_bytes"]["value"] == 1 << 20
    assert all(fact["source"].split(",")[0].strip() in data["sources"] for fact in data["facts"].values())
    assert cli.main(["devices", DEVICE]) == 0
    text = capsys.readouterr().out
    assert "0x08000000" in text and "1,048,576" in text and "168,000,000" in text


def test_a_device_of_ones_own(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "{DEVICE}"\nname = "mine"\n')
    assert cli.main(["devices", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine"
    path.write_text(f'extends = "{DEVICE}"\nname = "mine"\nclok = 3\n')
    assert cli.main(["devices", str(path)]) == 2
    assert "clok" in capsys.readouterr().err


def test_ops_lists_every_op_of_the_graph(capsys):
    from sdk.graph.ops import OPS

    assert cli.main(["ops", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(OPS)
    assert [row["name"] for row in rows if not row["dtypes"]] == ["opaque"]
    conv = next(row for row in rows if row["name"] == "conv2d")
    assert conv["constraints"] and all(text.endswith(".") and "function" not in text for text in conv["constraints"])
    assert conv["kernels"][0]["function"].startswith("embarq_conv2d")
    assert cli.main(["ops"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ *{name}\b", text, re.M) for name in OPS)
    assert cli.main(["ops", "conv2d"]) == 0
    assert "conv2d" in capsys.readouterr().out
    assert cli.main(["ops", "conv2dd"]) == 2
    assert "conv2d" in capsys.readouterr().err


# -- boards ------------------------------------------------------------------------------------------------------------


class FakeSession:
    """A board that doubles what it is given."""

    def __init__(self, log):
        self.log = log

    def run(self, x):
        self.log.append(x.shape)
        return (x * 2)[:, :3]

    def verify(self, progress=None):
        return SimpleNamespace(ok=False, to_dict=lambda: {"ok": False, "layer": "conv_1"})

    def profile(self):
        return SimpleNamespace(to_dict=lambda: [{"step": 0}])

    def close(self):
        self.log.append("closed")


@pytest.fixture
def flashed(monkeypatch):
    log = []
    manifest = {"name": "net", "device": DEVICE, "files": {}}
    tensors = {"inputs": (Tensor("x", (1, 4), "float32"),), "outputs": (Tensor("y", (1, 3), "float32"),)}

    def flash(target, progress=None, verify=True):
        log.append((target, verify))
        return FakeSession(log)

    monkeypatch.setattr(sdk, "open", lambda _folder: SimpleNamespace(manifest=manifest, flash=flash, tensors=tensors.get))
    return log


def test_flash_verifies_and_closes(flashed, capsys):
    assert cli.main(["flash", "out", "--to", "/dev/ttyACM0", "--json"]) == 0
    assert flashed == [("/dev/ttyACM0", True), "closed"]
    assert json.loads(capsys.readouterr().out)["to"] == "/dev/ttyACM0"


def test_verify_that_fails_exits_5_and_closes(flashed, capsys):
    assert cli.main(["verify", "out", "--json"]) == 5
    assert flashed[-1] == "closed"
    assert json.loads(capsys.readouterr().out)["layer"] == "conv_1"


def test_verify_files_only_needs_no_board(flashed):
    assert cli.main(["verify", "out", "--files-only"]) == 0
    assert flashed == []


def test_run_feeds_stacked_inputs_one_by_one_and_writes_the_outputs(flashed, tmp_path, capsys):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", x)
    assert cli.main(["run", "out", "-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]) == 0
    assert flashed[1:] == [(1, 4)] * 3 + ["closed"]
    assert np.array_equal(np.load(tmp_path / "y.npy"), (x * 2)[:, :3])
    assert "3 runs" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy"]


def test_run_without_input_draws_one_from_the_seed(flashed, capsys):
    outputs = []
    for seed in ("1", "1", "2"):
        assert cli.main(["run", "out", "--json", "--seed", seed]) == 0
        outputs.append(json.loads(capsys.readouterr().out)["outputs"][0]["values"])
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00v\x00"])
def test_run_refuses_a_file_that_is_no_array(flashed, content, tmp_path, capsys):
    (tmp_path / "x.npy").write_bytes(content)
    assert cli.main(["run", "out", "-i", str(tmp_path / "x.npy")]) == 2
    assert "x.npy" in capsys.readouterr().err


def test_run_refuses_another_shape_before_it_flashes(flashed, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    assert cli.main(["run", "out", "-i", str(tmp_path / "x.npy")]) == 2
    assert "[2, 5]" in capsys.readouterr().err and flashed == []


@pytest.mark.parametrize("name", ["y.txt", "nowhere/y.npy"])
def test_run_refuses_an_output_file_before_it_flashes(flashed, name, tmp_path, capsys):
    assert cli.main(["run", "out", "-o", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err and flashed == []


def test_several_inputs_and_outputs_travel_as_npz(tmp_path):
    tensors = (Tensor("a", (1, 2), "float32"), Tensor("b", (1,), "int32"))
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2), np.float32), b=np.arange(3, dtype=np.int32))
    samples = arrays.read_samples(str(tmp_path / "x.npz"), tensors, 0)
    assert [(a.shape, b.tolist()) for a, b in samples] == [((1, 2), [0]), ((1, 2), [1]), ((1, 2), [2])]
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2)))
    with pytest.raises(errors.DataError, match="reads a, b"):
        arrays.read_samples(str(tmp_path / "x.npz"), tensors, 0)
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2)), b=np.arange(2))
    with pytest.raises(errors.DataError, match="as many of each"):
        arrays.read_samples(str(tmp_path / "x.npz"), tensors, 0)
    with pytest.raises(errors.UsageError, match="2 outputs"):
        arrays.check_output(str(tmp_path / "y.npy"), ["p", "q"])
    arrays.write_outputs(str(tmp_path / "y.npz"), {"p": np.ones(2), "q": np.zeros(1)})
    with np.load(tmp_path / "y.npz") as written:
        assert sorted(written.files) == ["p", "q"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "save", raising(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        arrays.write_outputs(str(tmp_path / "y.npy"), {"y": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


# -- printing ----------------------------------------------------------------------------------------------------------


def test_sizes_and_json_of_odd_values():
    assert [common.size(n) for n in (None, 1000, 1 << 19, 3 << 20)] == ["", "1000 B", "512 KiB", "3 MiB"]
    value = {"a": np.arange(2), "b": np.float32(0.5), "c": frozenset({"x"}), "d": Path("y")}
    assert json.loads(json.dumps(value, default=common.plain)) == {"a": [0, 1], "b": 0.5, "c": ["x"], "d": "y"}
    with pytest.raises(TypeError):
        json.dumps({"a": object()}, default=common.plain)


def test_nothing_but_the_result_on_a_pipe():
    done = embarq("devices", DEVICE)
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout


PLAN_LIGHTLY = """
import json, sys
calls = 0
def count(frame, event, arg):
    global calls
    calls += event == "call"
sys.setprofile(count)
from sdk.cli import main
code = main(sys.argv[1:])
sys.setprofile(None)
names = {"torch", "onnx", "onnxruntime", "ai_edge_litert", "unicorn", "ziglang", "matplotlib", "serial"}
heavy = sorted(names & {module.split(".")[0] for module in sys.modules})
sys.stderr.write(json.dumps({"code": code, "heavy": heavy, "calls": calls}))
"""


@pytest.mark.parametrize("name", ["kws01_dscnn_int8", "ic01_resnet8_int8", "vww01_mbv1_025_int8", "ad01_autoencoder_int8"])
def test_plan_of_a_tflite_is_quick_and_loads_no_heavy_library(name):
    """Work is counted in calls of Python functions, imports included, which no busy machine changes: a million take a second or two."""
    path = shared(f"mlperf_tiny/models/{name}.tflite")
    command = [sys.executable, "-c", PLAN_LIGHTLY, "plan", "stm32l4r5", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    said = json.loads(done.stderr.splitlines()[-1])
    assert said["code"] == 0, done.stderr
    assert said["heavy"] == []
    assert said["calls"] < 1_000_000
