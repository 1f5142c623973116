"""tflite-runtime, which older devices still have and which needs numpy 1: the same .tflite, run in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sdk.backends.litert import emit
from sdk.backends.litert.writer import write
from sdk.graph.from_tflite import from_tflite
from sdk.graph.ir import Graph
from tests.data import ROOT
from tests.small_models import int8_cnn
from tests.test_backend_litert import CNNS, ENCODERS, FLOAT, INT8, content, torch_model
from tests.test_backend_litert_ops import feed_for
from tests.tflite_writer import reference

RUN_THERE = """
import json, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
for name in json.loads(sys.argv[1]):
    interpreter = Interpreter(f"{sys.argv[2]}/{name}.tflite", num_threads=1)
    interpreter.allocate_tensors()
    results = []
    for x in np.load(f"{sys.argv[2]}/{name}.npy"):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    np.save(f"{sys.argv[2]}/{name}.out.npy", np.stack(results))
"""


@pytest.fixture(scope="module")
def old_python() -> str:
    """The interpreter of the environment with tflite-runtime; skips with the reason where it cannot be made."""
    done = subprocess.run([str(ROOT / "scripts" / "tflite-runtime-venv")], capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        pytest.skip((done.stderr.strip().splitlines() or ["scripts/tflite-runtime-venv failed"])[-1])
    return str(ROOT / ".cache" / "tflite-runtime" / "bin" / "python")


def output_scale(graph: Graph) -> float:
    """Real size of one integer step of the only output; of what is dequantised for it where it is float32."""
    node = graph.producer(graph.outputs[0])
    tensor = graph[node.inputs[0] if node is not None and node.op == "dequantize" else graph.outputs[0]]
    return tensor.scale


@pytest.mark.long
def test_tflite_runtime_computes_the_same(old_python: str, tmp_path: Path) -> None:
    """tflite-runtime 2.14 beside LiteRT's reference kernels, eight inputs a model.

    Measured with 40 inputs on x86-64: float32 within 6.4e-7 of the largest value; int8 at worst 3 steps of the output and 0.58 on
    average. (LiteRT's own XNNPACK kernels are up to 6 steps from its reference kernels on the same models.)
    """
    from tests.torch_nets import FAMILIES

    files: dict[str, tuple[bytes, np.ndarray]] = {}
    for name in (*CNNS, *ENCODERS, "encoder_causal"):
        model, _, _, data = torch_model(name)
        inputs = FAMILIES[name].samples(8, seed=123)[:, None]
        files |= {f"{name}.{r.precision}": (content(emit(model, r, data)), inputs) for r in (FLOAT, INT8)}
    for seed in range(3):
        graph, rng = int8_cnn(seed), np.random.default_rng(seed)
        files[f"small{seed}.int8"] = (write(graph), np.stack([feed_for(graph, rng)[0] for _ in range(8)]))
    for name, (file, inputs) in files.items():
        (tmp_path / f"{name}.tflite").write_bytes(file)
        np.save(tmp_path / f"{name}.npy", inputs)
    subprocess.run([old_python, "-c", RUN_THERE, json.dumps(list(files)), str(tmp_path)], check=True, capture_output=True, timeout=500)
    for name, (file, inputs) in files.items():
        want = np.stack([reference(file, [x])[0] for x in inputs]).astype(np.float64)
        differ = np.abs(np.load(tmp_path / f"{name}.out.npy") - want)
        if name.endswith("float32"):
            assert differ.max() <= 1e-5 * np.abs(want).max(), name
        else:
            step = 1.0 if name.startswith("small") else output_scale(from_tflite(file))
            assert differ.max() <= 4.01 * step and differ.mean() <= 1.0 * step, f"{name}: {differ.max() / step:.2f}, {differ.mean() / step:.2f}"
