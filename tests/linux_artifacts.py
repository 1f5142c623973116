"""Small Linux artifacts written by hand: an ONNX net with its golden vectors, and variations of its manifest."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.bundle import FORMAT, VERSION, file_entry, write_bundle
from sdk.golden import npy_array, npy_bytes

SHAPE, CLASSES = (1, 3, 8, 8), 5


def onnx_bytes(seed: int = 0, scale: float = 1.0) -> bytes:
    """A convolution, a ReLU, a mean and a dense layer: [1, 3, 8, 8] float32 -> [1, 5] float32."""
    onnx = pytest.importorskip("onnx")
    helper, rng = onnx.helper, np.random.default_rng(seed)
    weights = {"w": scale * rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4), "v": rng.standard_normal((4, CLASSES))}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], name="mean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["y"], name="dense"),
    ]
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", SHAPE), ("y", (1, CLASSES)))]
    initial = [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], initial)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def reference(content: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What onnx's own reference evaluator makes of it: not the engine under test."""
    from onnx import load_model_from_string
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(y) for y in ReferenceEvaluator(load_model_from_string(content)).run(None, {"x": inputs[0]})]


def port(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "scale": None, "zero_point": None}


def bundle(engine: str, entry: str, content: bytes, vectors: list[tuple[list[np.ndarray], list[np.ndarray]]], **changes: Any) -> tuple[dict, dict]:
    """(manifest, files) of a Linux artifact. `changes` replace keys of the manifest."""
    files = {entry: content}
    for v, (inputs, outputs) in enumerate(vectors):
        files.update({f"golden/{v}_input_{i}.npy": npy_bytes(a) for i, a in enumerate(inputs)})
        files.update({f"golden/{v}_output_{i}.npy": npy_bytes(a) for i, a in enumerate(outputs)})
    names = ("x", "y")
    manifest = {
        "format": FORMAT, "version": VERSION, "name": "tiny", "device": "rpi-4b", "backend": engine, "plan_id": "00" * 32,
        "recipe": {"engine": engine, "precision": "float32", "threads": 1, "options": {}}, "entry": entry, "requires": {}, "machine": "any", "steps": [],
        "inputs": [port(f"{names[0]}{i or ''}", a) for i, a in enumerate(vectors[0][0])],
        "outputs": [port(f"{names[1]}{i or ''}", a) for i, a in enumerate(vectors[0][1])],
        "golden": {"vectors": len(vectors), "tolerance": 1e-4, "step_crc32": [[] for _ in vectors]}, "cost": {}, "versions": {},
        "files": {name: file_entry(data) for name, data in files.items()},
    }  # fmt: skip
    manifest.update(copy.deepcopy(changes))
    return manifest, files


def onnx_bundle(seed: int = 0, scale: float = 1.0, padding_bytes: int = 0, **changes: Any) -> tuple[dict, dict]:
    """An ONNX artifact with two golden vectors from the reference evaluator. padding_bytes: of noise in a file that makes uploads long."""
    content = onnx_bytes(seed, scale)
    rng = np.random.default_rng(seed)
    inputs = [[rng.standard_normal(SHAPE).astype(np.float32)] for _ in range(2)]
    manifest, files = bundle("onnx", "payload/model.onnx", content, [(x, reference(content, x)) for x in inputs], **changes)
    if padding_bytes:
        files["report.html"] = rng.bytes(padding_bytes)
        manifest["files"]["report.html"] = file_entry(files["report.html"])
    return manifest, files


def saved(folder: Path, made: tuple[dict, dict]) -> Path:
    """The bundle written to `folder`."""
    write_bundle(folder, *made)
    return folder


def spoil(made: tuple[dict, dict]) -> tuple[dict, dict]:
    """The same artifact whose golden output is wrong, hashes in order: it arrives whole and fails its verification."""
    manifest, files = copy.deepcopy(made[0]), dict(made[1])
    name = "golden/1_output_0.npy"
    wrong = npy_array(files[name], name) + 1
    files[name] = npy_bytes(wrong.astype(np.float32))
    manifest["files"][name] = file_entry(files[name])
    return manifest, files
