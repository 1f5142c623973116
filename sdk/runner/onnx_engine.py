"""ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Signature, check_options, first_line, missing
from .errors import BadRequest, EngineRefused

OPTIONS = ("providers", "optimisation", "session")
LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
#: Exact int8 products on x86 without VNNI too, whose default adds pairs of products in 16 bits and saturates; no change elsewhere.
SESSION = {"session.x64quantprecision": "1"}
DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int8)": "int8", "tensor(uint8)": "uint8",
    "tensor(int16)": "int16", "tensor(uint16)": "uint16", "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64",
    "tensor(uint64)": "uint64", "tensor(bool)": "bool",
}  # fmt: skip


def _runtime() -> Any:
    try:
        import onnxruntime
    except Exception as error:
        raise missing("onnxruntime", error) from error
    return onnxruntime


class OnnxEngine:
    """An `.onnx` file. options: `providers` (default the CPU's), `optimisation` (off, basic, extended, all), `session` (config entries)."""

    name = "onnx"
    why_no_profile = ""

    def __init__(self, path: str, threads: int, options: Mapping[str, Any]) -> None:
        check_options("onnx", options, OPTIONS)
        self._path, self._threads, self._options = path, threads, options
        self.version = str(_runtime().__version__)
        self._session = self._open(None)
        self.inputs = [_signature(port) for port in self._session.get_inputs()]
        self.outputs = [_signature(port) for port in self._session.get_outputs()]
        self._names = [name for name, _, _ in self.inputs]
        self._wanted = [name for name, _, _ in self.outputs]  # given, so that ONNX Runtime need not list them at every call

    def _open(self, profile_prefix: str | None) -> Any:
        asked = dict(self._options.get("session") or {})
        try:
            return self._opened(profile_prefix, {**SESSION, **asked})
        except EngineRefused:  # int8 activations have no kernels beside the uint8 weights that exact products take (ONNX Runtime 1.32)
            return self._opened(profile_prefix, asked)

    def _opened(self, profile_prefix: str | None, entries: Mapping[str, Any]) -> Any:
        ort = _runtime()
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = self._threads, 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.log_severity_level = 3
        level = self._options.get("optimisation", "all")
        if level not in LEVELS:
            raise BadRequest(f"optimisation {level!r} is not known; choose from {', '.join(LEVELS)}")
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
        for key, value in entries.items():
            settings.add_session_config_entry(str(key), str(value))
        if profile_prefix:
            settings.enable_profiling, settings.profile_file_prefix = True, profile_prefix
        try:
            return ort.InferenceSession(self._path, settings, providers=list(self._options.get("providers") or ["CPUExecutionProvider"]))
        except Exception as error:  # its own exceptions have no common base
            raise EngineRefused(f"ONNX Runtime {ort.__version__} does not open {self._path}: {first_line(error)}; compile it for this version") from error

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference."""
        return self._run(self._session, arrays)

    def _run(self, session: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
        try:
            return list(session.run(self._wanted, dict(zip(self._names, arrays))))
        except Exception as error:
            raise EngineRefused(f"ONNX Runtime {self.version} stopped while running: {first_line(error)}; check the inputs and the free memory") from error

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean time of every kernel as ONNX Runtime's own profiler tells it, from a session of its own: profiling slows a session for good."""
        with tempfile.TemporaryDirectory(prefix="embarq-run-") as folder:
            session = self._open(str(Path(folder) / "ort"))
            self._run(session, arrays)
            for _ in range(repeats):
                self._run(session, arrays)
            events = json.loads(Path(session.end_profiling()).read_text())
        return kernel_times(events, repeats)

    def close(self) -> None:
        """Give the memory back."""
        self._session = None


def _signature(port: Any) -> Signature:
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    return port.name, shape, DTYPES.get(port.type, port.type)


def kernel_times(events: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Mean ms per kernel over the last `repeats` runs of a trace, in order of first appearance; the first run warms up and is left out."""
    times: dict[tuple[str, str], list[float]] = {}
    for event in sorted((e for e in events if str(e.get("name", "")).endswith("_kernel_time")), key=lambda e: e["ts"]):
        name = event["name"][: -len("_kernel_time")]
        times.setdefault((name, event.get("args", {}).get("op_name", "")), []).append(event["dur"] / 1000)
    return [{"name": name, "op": op, "ms": sum(kept[-repeats:]) / repeats} for (name, op), kept in times.items()]
