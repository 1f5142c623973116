"""The runner: what it refuses, what it computes, how it speaks, what it measures. Its outputs are judged by evaluators that are not its engines."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.bundle import file_entry
from sdk.runner import bundle as bundles
from sdk.runner import health, rpc
from sdk.runner.arrays import DTYPES, pack, unpack
from sdk.runner.compare import compare, prove
from sdk.runner.engines import NAMES, open_engine
from sdk.runner.errors import BadRequest, BundleRefused, EngineMissing, EngineRefused, MachineRefused, VersionRefused
from sdk.runner.measure import summary
from sdk.runner.onnx_engine import kernel_times
from sdk.zipapp import OLDEST_PYTHON, runner_zipapp
from tests.linux_artifacts import SHAPE, onnx_bundle, onnx_bytes, reference, saved, spoil

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "sdk" / "runner"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The runner as a process of its own."""
    command = [sys.executable, "-m", "sdk.runner", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def needs_onnx() -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX artifact on disk."""
    needs_onnx()
    return saved(tmp_path_factory.mktemp("runner") / "tiny", onnx_bundle())


# --- the house's rules for this package


def sources() -> list[Path]:
    return sorted(RUNNER.glob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.name)
def test_every_file_is_of_the_oldest_python(path):
    """Python 3.9 parses it, and it uses none of what later versions added to zip, isinstance and dataclasses."""
    tree = ast.parse(path.read_text(), feature_version=OLDEST_PYTHON)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, words = ast.unparse(call.func), {k.arg for k in call.keywords}
        assert not (name == "zip" and "strict" in words), f"{path.name}:{call.lineno}"
        assert not (name == "isinstance" and isinstance(call.args[1], ast.BinOp)), f"{path.name}:{call.lineno}"
        assert not (name == "dataclass" and words & {"slots", "kw_only"}), f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.name)
def test_it_imports_only_itself_the_standard_library_numpy_and_engines(path):
    allowed = {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "executorch", "torch", "tensorrt", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert {name.split(".")[0] for name in names} <= allowed, f"{path.name}:{node.lineno}"


def test_the_zipapp_is_the_same_every_time_and_holds_every_file():
    first = runner_zipapp()
    runner_zipapp.cache_clear()
    assert runner_zipapp() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert sorted(archive.namelist()) == sorted(["__main__.py", *(f"embarq_run/{p.name}" for p in sources())])
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert first.startswith(b"#!/usr/bin/env python3\n")


def test_the_zipapp_runs_where_embarq_is_not(folder, tmp_path):
    path = tmp_path / "embarq-run.pyz"
    path.write_bytes(runner_zipapp())
    done = subprocess.run([sys.executable, str(path), "verify", str(folder)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("proved: 2 vectors, 40 output bytes")


# --- bundles


def test_a_whole_artifact_is_opened(folder):
    found = bundles.open_bundle(str(folder))
    assert (found.engine, found.threads, found.entry.name) == ("onnx", 1, "model.onnx")


def drop_file(manifest, files):
    del files["payload/model.onnx"]


def flip_bit(manifest, files):
    files["payload/model.onnx"] = bytes([files["payload/model.onnx"][0] ^ 1]) + files["payload/model.onnx"][1:]


def truncate(manifest, files):
    files["golden/0_input_0.npy"] = files["golden/0_input_0.npy"][:-1]


def escape(manifest, files):
    manifest["files"]["../outside"] = file_entry(b"x")


def without(key):
    def change(manifest, files):
        del manifest[key]

    return change


def having(key, value):
    def change(manifest, files):
        manifest[key] = value

    return change


OTHER_MACHINE = "riscv64"
REFUSED = {
    "file missing": (drop_file, BundleRefused, "payload/model.onnx is missing"),
    "bit flipped": (flip_bit, BundleRefused, "payload/model.onnx is not the file that was saved"),
    "file cut": (truncate, BundleRefused, "golden/0_input_0.npy is not the file"),
    "path outside": (escape, BundleRefused, "names '../outside', which leaves the folder"),
    "entry unlisted": (having("entry", "payload/other.onnx"), BundleRefused, "its entry 'payload/other.onnx' is not among its files"),
    "no recipe": (without("recipe"), BundleRefused, "'recipe' is missing or not a dict"),
    "inputs no list": (having("inputs", {}), BundleRefused, "'inputs' is missing or not a list"),
    "no hash": (having("files", {"payload/model.onnx": 3}), BundleRefused, "gives no hash and size for"),
    "other format": (having("format", "zip"), BundleRefused, "not the manifest of an embarq artifact"),
    "newer format": (having("version", 2), VersionRefused, "has format version 2 and this runner reads 1"),
    "firmware": (having("backend", "firmware"), BundleRefused, "for the microcontroller rpi-4b, not for a Linux engine"),
    "engine unknown": (having("backend", "abacus"), BundleRefused, "for the engine 'abacus' and this runner has onnx"),
    "other machine": (having("machine", OTHER_MACHINE), MachineRefused, f"made for {OTHER_MACHINE} and this machine is"),
    "python": (having("requires", {"python": "3.99"}), MachineRefused, "needs Python 3.99 and this is 3."),
    "engine newer": (having("requires", {"onnxruntime": "99.0.0"}), VersionRefused, "needs onnxruntime 99.0.0 or newer and"),
    "engine absent": (having("requires", {"no-such-engine": "1.2"}), EngineMissing, "-m pip install no-such-engine==1.2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    needs_onnx()
    change, kind, sentence = REFUSED[name]
    manifest, files = onnx_bundle()
    change(manifest, files)
    written = saved(tmp_path / "tiny", (manifest, files))
    with pytest.raises(kind) as caught:
        bundles.open_bundle(str(written))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_link_that_leads_outside_is_refused(tmp_path):
    needs_onnx()
    manifest, files = onnx_bundle()
    written = saved(tmp_path / "tiny", (manifest, files))
    (tmp_path / "outside").write_bytes(files["payload/model.onnx"])
    (written / "payload/model.onnx").unlink()
    (written / "payload/model.onnx").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleRefused, match="leaves the folder"):
        bundles.open_bundle(str(written))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_damaged_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(BundleRefused, match=r"damaged|not the manifest"):
        bundles.open_bundle(str(tmp_path))
    with pytest.raises(BundleRefused, match=r"has no manifest\.json"):
        bundles.open_bundle(str(tmp_path / "nowhere"))


def test_exit_codes_are_those_of_the_host(tmp_path):
    needs_onnx()
    cases = {2: having("format", "zip"), 6: having("machine", OTHER_MACHINE), 8: having("version", 7)}
    for code, change in cases.items():
        manifest, files = onnx_bundle()
        change(manifest, files)
        done = run("verify", saved(tmp_path / str(code), (manifest, files)))
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
        assert done.stderr.startswith("embarq-run: ")
    done = run("verify", saved(tmp_path / "5", spoil(onnx_bundle())))
    assert done.returncode == 5 and done.stdout.startswith("DIFFERENT: output y differs by")


@pytest.mark.parametrize(("older", "newer"), [("1.9", "1.10"), ("1.32.0", "1.32.1"), ("2.3.0rc1", "2.3.1"), ("1.5.1+cpu", "1.6"), ("3.9", "3.11")])
def test_versions_are_ordered_by_number(older, newer):
    assert bundles.version_key(older) < bundles.version_key(newer)
    assert bundles.version_key("1.5.1+cpu") == bundles.version_key("1.5.1") == bundles.version_key(">=1.5.1")


def test_another_engine_is_taken_only_for_the_same_file():
    assert bundles.choose_engine({"name": "t", "backend": "litert"}, "tflite-runtime") == "tflite-runtime"
    with pytest.raises(BundleRefused, match="cannot open it; choose from onnx"):
        bundles.choose_engine({"name": "t", "backend": "onnx"}, "litert")


# --- the protocol


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
)


def bodies(data: bytes) -> list[bytes]:
    stream, found = io.BytesIO(data), []
    while (body := rpc.read_body(stream.readline, stream.read)) is not None:
        found.append(body)
    return found


@given(st.lists(JSON, max_size=4))
def test_messages_come_back_as_they_were(messages):
    assert [json.loads(body) for body in bodies(b"".join(map(rpc.frame, messages)))] == messages


@given(st.binary(min_size=1, max_size=80))
def test_noise_is_refused(data):
    """Anything but whole frames ends in the one error that says so."""
    try:
        found = bodies(data)
    except rpc.FramingError:
        return
    assert sum(map(len, found)) < len(data)


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"Content-Length: -4\r\n\r\n", b"Content-Length: x\r\n\r\n", b"\r\n", b"Content-Length: 9\r\n\r\n{}"])
def test_broken_frames_are_told(data):
    with pytest.raises(rpc.FramingError):
        bodies(data)


def test_answers_follow_json_rpc():
    def fail(_):
        raise VersionRefused("too old")

    methods = {"double": lambda p: 2 * p["x"], "fail": fail, "defect": lambda p: 1 // 0}

    def ask(**request):
        return rpc.answer(json.dumps({"jsonrpc": "2.0", "id": 7, **request}).encode(), methods)

    assert ask(method="double", params={"x": 4}) == {"jsonrpc": "2.0", "id": 7, "result": 8}
    assert ask(method="fail")["error"] == {"code": rpc.OURS - 8, "message": "too old"}
    assert ask(method="other")["error"]["code"] == rpc.METHOD_NOT_FOUND
    assert ask(method="defect")["error"]["code"] == rpc.INTERNAL
    assert ask(method="double", params=[4])["error"]["code"] == rpc.INVALID_REQUEST
    assert ask(method=5)["error"]["code"] == rpc.INVALID_REQUEST
    assert rpc.answer(b"{", methods)["error"]["code"] == rpc.PARSE_ERROR
    assert rpc.answer(b'{"jsonrpc": "2.0", "method": "double", "params": {"x": 1}}', methods) is None


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32 - 1))
def test_arrays_come_back_as_they_were(dtype, shape, seed):
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
    array = np.frombuffer(raw, np.uint8 if dtype == "bool" else dtype).reshape(shape)
    array = (array & 1).astype(bool) if dtype == "bool" else array
    back = unpack(json.loads(json.dumps(pack(array))))
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()


@pytest.mark.parametrize("change", [{"dtype": "object"}, {"shape": [3]}, {"shape": "2"}, {"data": "AA=A"}, {"shape": [-2]}, {"data": None}])
def test_wrong_arrays_are_refused(change):
    with pytest.raises(BadRequest):
        unpack({**pack(np.zeros(2, np.float32)), **change})


# --- comparison


def test_the_measure_of_a_difference():
    assert compare(np.array([1.0, -4.0]), np.array([1.0, -3.0])).relative == 0.25
    assert compare(np.array([3, -100], np.int8), np.array([3, -99], np.int8)).relative == pytest.approx(0.01)
    assert compare(np.array([1.0]), np.array([np.nan])).relative == float("inf")
    assert compare(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])).relative == 0
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).relative == 0


def test_a_proof_names_the_first_output_that_differs():
    x, y = np.zeros(2, np.float32), np.ones(2, np.float32)
    vectors = [([x], [y, y]), ([x], [y, y]), ([x], [y, y])]
    calls = []

    def second_differs(inputs):
        calls.append(1)
        return [y, y if len(calls) < 2 else y * np.float32(1.5)]

    found = prove(vectors, ["a", "b"], 0.1, second_differs)
    assert found["first_difference"].startswith("output b differs by 5.0e-01") and found["first_difference"].endswith("vector 1")
    assert found["vectors"] == 2 and len(calls) == 2
    assert "is float32 [1] and should be float32 [2]" in prove(vectors, ["a", "b"], 1.0, lambda _: [y[:1], y])["first_difference"]
    assert "1 outputs and not 2" in prove(vectors, ["a", "b"], 1.0, lambda _: [y])["first_difference"]
    zero = [([x], [np.array([0.0], np.float32)])]
    assert prove(zero, ["a"], 0.0, lambda _: [np.array([-0.0], np.float32)])["first_difference"], "tolerance 0 means every byte"


# --- engines


def test_onnx_computes_what_the_reference_evaluator_does(folder):
    engine = open_engine("onnx", str(folder / "payload/model.onnx"), 1, {})
    x = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_allclose(engine.run([x])[0], reference(onnx_bytes(), [x])[0], rtol=1e-4, atol=1e-5)
    assert engine.inputs == [("x", SHAPE, "float32")] and engine.outputs == [("y", (1, 5), "float32")]
    rows = engine.profile([x], 3)
    assert {"Conv", "MatMul"} <= {row["op"] for row in rows} and all(row["ms"] >= 0 for row in rows)
    engine.close()


def test_kernel_times_leave_the_first_run_out():
    events = [{"name": "a_kernel_time", "ts": t, "dur": d, "args": {"op_name": "Conv"}} for t, d in ((5, 9000), (6, 1000), (7, 3000))]
    assert kernel_times([*events, {"name": "session", "ts": 0, "dur": 1}], 2) == [{"name": "a", "op": "Conv", "ms": 2.0}]


def test_litert_computes_what_numpy_does(tmp_path):
    from tests.tflite_writer import Value, one_op

    a, b = Value("a", (1, 4), "float32"), Value("b", (1, 4), "float32")
    path = tmp_path / "add.tflite"
    path.write_bytes(one_op("ADD", [a, b], [Value("c", (1, 4), "float32")], ("AddOptions", {})))
    x, y = (np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32) for i in range(2))
    for kernels in ("default", "builtin", "reference"):
        engine = open_engine("litert", str(path), 1, {"kernels": kernels})
        np.testing.assert_array_equal(engine.run([x, y])[0], x + y)
        rows = engine.profile([x, y], 1)
        assert [row["op"] for row in rows] == ["Add (ND)"] if kernels == "default" else rows is None and "times per operation" in engine.why_no_profile
        engine.close()


def test_unknown_options_engines_and_threads_are_refused(folder):
    path = str(folder / "payload/model.onnx")
    with pytest.raises(BadRequest, match="onnx has no option 'treads'; it knows providers"):
        open_engine("onnx", path, 1, {"treads": 2})
    with pytest.raises(BadRequest, match="optimisation 'most' is not known"):
        open_engine("onnx", path, 1, {"optimisation": "most"})
    with pytest.raises(BadRequest, match="engine 'abacus' is not known"):
        open_engine("abacus", path, 1, {})
    with pytest.raises(BadRequest, match="0 threads"):
        open_engine("onnx", path, 0, {})


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_a_file_that_is_no_model_is_refused(name, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "litert": "ai_edge_litert"}[name])
    (tmp_path / "model").write_bytes(b"not a model")
    with pytest.raises(EngineRefused, match=r"does not open .*compile it for this version"):
        open_engine(name, str(tmp_path / "model"), 1, {})


MODULES = {"onnx": "onnxruntime", "litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime", "executorch": "torch"}
WITHOUT = """
import sys
from sdk.runner.engines import open_engine
from sdk.runner.errors import EngineMissing
for module, engine in zip(sys.argv[1::2], sys.argv[2::2]):
    sys.modules[module] = None
    try:
        open_engine(engine, "none", 1, {})
    except EngineMissing as error:
        print(error)
"""


def test_a_missing_engine_is_named_with_its_pip_line():
    assert set(MODULES) < set(NAMES)
    words = [word for engine, module in MODULES.items() for word in (module, engine)]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["onnxruntime", "ai-edge-litert", "tflite-runtime", "torch"], done.stderr
    assert all("is not installed for" in line and f"-m pip install {line.split()[0]}" in line for line in lines)


def test_a_payload_that_is_not_what_the_manifest_says_is_refused(tmp_path):
    needs_onnx()
    manifest, files = onnx_bundle()
    manifest["inputs"][0]["shape"] = [1, 3, 9, 9]
    done = run("info", saved(tmp_path / "tiny", (manifest, files)))
    assert done.returncode == 6 and "its manifest says [([1, 3, 9, 9], 'float32')]" in done.stderr


# --- what it measures


def test_threads_are_said_to_every_pool(folder):
    """The recipe's threads count, whatever the user's environment says."""
    code = "import os, sys; from sdk.runner.__main__ import main; main(['verify', sys.argv[1]]); sys.stderr.write(os.environ['OMP_NUM_THREADS'])"
    command, environment = [sys.executable, "-c", code, str(folder)], {**os.environ, "OMP_NUM_THREADS": "64"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.stderr == "1"


def test_bench_and_profile_as_json(folder):
    result = json.loads(run("bench", folder, "--repeats", 5, "--json").stdout)
    assert len(result["ms"]) == 5 and result["min_ms"] <= result["median_ms"] <= result["p90_ms"]
    assert 0 < result["before_engine_bytes"] < result["after_load_bytes"] <= result["peak_rss_bytes"]
    profile = json.loads(run("profile", folder, "--json", "--repeats", 2).stdout)
    assert {"Conv", "MatMul"} <= {row["op"] for row in profile["layers"]}
    assert run("bench", folder, "--repeats", 0).returncode == 2


def test_summary_of_times():
    assert summary([4.0, 1.0, 2.0, 3.0]) == {"median_ms": 2.5, "min_ms": 1.0, "p90_ms": 4.0, "mean_ms": 2.5}


def fake_root(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_health_of_a_pi_that_is_too_hot(tmp_path):
    thermal = "sys/class/thermal/thermal_zone"
    root = fake_root(tmp_path, {
        f"{thermal}0/type": "cpu-thermal\n", f"{thermal}0/temp": "81243\n", f"{thermal}1/type": "gpu\n", f"{thermal}1/temp": "99000\n",
        health.THROTTLE_FILE: "0xd0008\n", "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "proc/self/status": "VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", "proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  4 kB\n",
    })  # fmt: skip
    assert health.health(root) == {
        "rss_bytes": 1 << 20, "peak_rss_bytes": 2 << 20, "available_bytes": 4096, "temperature_c": 81.243, "clock_hz": 1_500_000_000,
        "throttling": {"now": ["soft temperature limit"], "since_boot": ["under-voltage", "throttled", "soft temperature limit"]},
    }  # fmt: skip


def test_health_where_the_system_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(health.health(tmp_path).values()) == {None}
    tool = tmp_path / "vcgencmd"
    tool.write_text("#!/bin/sh\necho throttled=0x50005\n")
    tool.chmod(0o755)
    assert health.throttling(tmp_path) == {"now": ["under-voltage", "throttled"], "since_boot": ["under-voltage", "throttled"]}
