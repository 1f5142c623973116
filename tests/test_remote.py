"""Sessions with a runner on this computer: the verbs, the proof, what is told when the runner refuses, is killed or is no runner."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.runner import Fate, LocalPipe, RunnerClient, fate_error
from sdk.artifact import Artifact
from sdk.errors import DeviceError, EmbarqError, LinkError, UsageError, VerificationFailed, VersionMismatch
from sdk.remote import open_remote
from sdk.runner import health
from targets.device import load_device
from tests.linux_artifacts import SHAPE, bundle, onnx_bundle, onnx_bytes, reference, saved, spoil

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def artifact(made: tuple[dict, dict]) -> Artifact:
    return Artifact(*made, load_device("rpi-4b"))


def test_a_local_session_has_the_verbs_of_a_session():
    with open_remote(artifact(onnx_bundle())) as session:
        report = session.verify()
        assert report.ok and report.vectors == 2 and report.bytes_compared == 40 and "proved on this computer" in str(report)
        x = np.random.default_rng(3).standard_normal((4, *SHAPE)).astype(np.float32)
        steps: list[tuple[int, int]] = []
        results = list(session.run_each(x, lambda done, total: steps.append((done, total))))
        assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
        for sample, result in zip(x, results, strict=True):
            np.testing.assert_allclose(result, reference(onnx_bytes(), [sample])[0], rtol=1e-4, atol=1e-5)
        profile = session.profile()
        assert "one inference" in str(profile) and {"Conv", "MatMul"} <= {row["op"] for row in profile.to_dict()["steps"]}
        bench = session.bench(repeats=9)
        assert len(bench.ms) == 9 and json.dumps(bench.to_dict()) and "9 runs" in str(bench)
        assert session.info()["threads"] == 1
        with pytest.raises(UsageError, match="takes 1 inputs and was given 2"):
            session.run(x[0], x[0])
        with pytest.raises(DeviceError, match="keeps no versions"):
            session.roll_back()
        left = Path(session.client.pipe._process.args[3])
        assert left.is_dir()
    assert not left.exists()
    session.close()


def test_peak_memory_is_of_the_new_process_alone():
    """A large parent does not show in the figure of its child, as it would with getrusage."""
    ballast = np.ones(400 << 20, np.uint8)
    with open_remote(artifact(onnx_bundle())) as session:
        peak = session.bench(repeats=3, fresh=True).peak_rss_bytes
    assert peak is not None and (health.memory()["peak_rss_bytes"] or 0) > ballast.nbytes > 3 * peak > 60 << 20


def test_a_wrong_golden_vector_is_found_on_the_host():
    with pytest.raises(VerificationFailed, match=r"this computer computes something else than the golden vectors: output y differs by .*, vector 1"):
        open_remote(artifact(spoil(onnx_bundle())))


def test_refusals_arrive_as_the_hosts_own_errors():
    cases = ((VersionMismatch, {"requires": {"onnxruntime": "99"}}), (DeviceError, {"machine": "riscv64"}), (UsageError, {"backend": "abacus"}))
    for kind, changes in cases:
        with pytest.raises(kind, match=r"^this computer: tiny "):
            open_remote(artifact(onnx_bundle(**changes)))


def test_a_killed_local_runner_is_told():
    with open_remote(artifact(onnx_bundle())) as session:
        os.kill(session.client.pipe.pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match="the runner on this computer was killed by signal 9"):
            session.run(np.zeros(SHAPE, np.float32))


BAD_TARGETS = {"serial:///dev/x": "is no Linux device", "local?pyton=3": "'pyton' is not known", "local?python=/no/python": "cannot start /no/python"}


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_targets_that_are_none(target):
    with pytest.raises(UsageError, match=BAD_TARGETS[target]):
        open_remote(artifact(onnx_bundle()), target)


def test_an_engine_that_cannot_open_the_file_is_refused():
    with pytest.raises(UsageError, match="litert cannot open it; choose from onnx"):
        open_remote(artifact(onnx_bundle()), "local?engine=litert")


def test_a_runner_that_says_nothing_is_given_up():
    pipe = LocalPipe([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(LinkError, match="did not answer in 0 s"):
        RunnerClient(pipe).call("info", timeout_s=0.3)
    pipe._process.kill()
    pipe.close()


@pytest.mark.parametrize(("code", "sentence"), [("print('hello')", r"ended unasked"), ("import sys; sys.exit('boom')", r"ended unasked \(boom\)")])
def test_a_program_that_is_no_runner_is_told(code, sentence):
    pipe = LocalPipe([sys.executable, "-c", code])
    with pytest.raises(EmbarqError, match=sentence):
        RunnerClient(pipe).call("info", timeout_s=30)
    pipe.close()


PRINTING = """
import os, sys
sys.path.insert(0, sys.argv[2])
from sdk.runner import bundle, serve
streams = serve.protocol_streams()
os.write(1, b"noise")
print("more noise", flush=True)
serve.serve_streams(bundle.open_bundle(sys.argv[1]), *streams)
"""


def test_what_an_engine_prints_does_not_enter_the_protocol(tmp_path):
    """Bytes written to stdout from C, as engines do, go to stderr: the next answer is still read rightly."""
    folder = saved(tmp_path / "tiny", onnx_bundle())
    client = RunnerClient(LocalPipe([sys.executable, "-c", PRINTING, str(folder), str(ROOT)]))
    assert client.call("info")["name"] == "tiny"
    with pytest.raises(UsageError, match="run needs inputs"):
        client.call("run", {})
    client.close()


FATES = [
    (Fate.of_code(-9, ""), DeviceError, "killed by signal 9"),
    (Fate.of_code(137, ""), DeviceError, "killed by signal 9"),
    (Fate.of_code(8, "noise\nembarq-run: too old; upgrade\n"), VersionMismatch, "dev: too old; upgrade"),
    (Fate.of_code(1, "Traceback\nValueError: x"), DeviceError, "ended unasked (ValueError: x)"),
    (Fate(), LinkError, "gone"),
]


@pytest.mark.parametrize("case", range(len(FATES)))
def test_how_a_runner_ended_is_one_sentence(case):
    fate, kind, sentence = FATES[case]
    error = fate_error(fate, "dev", LinkError("gone"))
    assert type(error) is kind and sentence in str(error)


@pytest.mark.long
def test_executorch_computes_what_torch_does():
    torch = pytest.importorskip("torch")
    pytest.importorskip("executorch", reason="needs executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 5)).eval()
    x = torch.randn(SHAPE)
    program = to_edge_transform_and_lower(torch.export.export(net, (x,)), partitioner=[XnnpackPartitioner()]).to_executorch()
    with torch.no_grad():
        wanted = net(x).numpy()
    made = bundle("executorch", "payload/model.pte", bytes(program.buffer), [([x.numpy()], [wanted])])
    with open_remote(artifact(made)) as session:
        assert session.verify().ok
        np.testing.assert_allclose(session.run(x.numpy()), wanted, rtol=1e-4, atol=1e-5)
        profile = session.profile()
        assert sum(row.op.startswith("Convolution") for row in profile.rows) == 1 and profile.total_ms > 0
        assert session.info()["engine"] == "executorch"


@pytest.mark.skipif(not os.environ.get("EMBARQ_TFLITE_PYTHON"), reason="needs a Python with tflite-runtime and numpy 1: set EMBARQ_TFLITE_PYTHON to it")
def test_tflite_runtime_in_an_environment_of_its_own_proves_the_same_file():
    from tests.tflite_writer import Value, one_op

    ports = [Value(name, (1, 4), "float32") for name in "abc"]
    x, y = (np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32) for i in range(2))
    content = one_op("ADD", ports[:2], ports[2:], ("AddOptions", {}))
    made = bundle("litert", "payload/model.tflite", content, [([x, y], [x + y])], requires={"ai-edge-litert": "2.3.0"})
    with open_remote(artifact(made), f"local?python={os.environ['EMBARQ_TFLITE_PYTHON']}&engine=tflite-runtime") as session:
        assert session.info()["engine"] == "tflite-runtime" and session.info()["versions"]["numpy"].startswith("1.")
        assert session.verify().bytes_equal == 16
