"""ExecuTorch, through the Python bindings of its wheel (which need torch to load)."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Signature, check_options, first_line, missing
from .errors import BadRequest, EngineRefused
from .etdump import operation_times

#: The engine's ScalarType numbers.
DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool"}


def _bindings() -> tuple[Any, Any]:
    """(torch, the bindings), quietly: both print advice meant for exporting."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch
        except Exception as error:
            raise missing("torch", error) from error
        try:
            from executorch.extension.pybindings import portable_lib
        except Exception as error:
            raise missing("executorch", error) from error
    return torch, portable_lib


class ExecutorchEngine:
    """A `.pte` file. options: `method` (default "forward")."""

    name = "executorch"
    why_no_profile = "this build of executorch has no event tracer, so there is no time per operation; install the wheel of release 1.5.1, which has it"

    def __init__(self, path: str, threads: int, options: Mapping[str, Any]) -> None:
        from .bundle import installed

        check_options("executorch", options, ("method",))
        self._torch, bindings = _bindings()
        self._torch.set_num_threads(threads)
        bindings._unsafe_reset_threadpool(threads)  # the only way its pool can be sized from Python, and before any program is loaded
        self._bindings, self._path = bindings, path
        self._method, self.version = str(options.get("method", "forward")), installed("executorch") or "unknown"
        try:
            self._module = bindings._load_for_executorch(path)
        except RuntimeError as error:
            raise EngineRefused(f"ExecuTorch {self.version} does not open {path}: {first_line(error)}; compile it for this version") from error
        if self._method not in self._module.method_names():
            raise BadRequest(f"the program has no method {self._method!r}; it has {', '.join(self._module.method_names())}")
        meta = self._module.method_meta(self._method)
        self.inputs = [_signature(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs())]
        self.outputs = [_signature(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs())]

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference."""
        return self._run(self._module, arrays)

    def _run(self, module: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
        # a copy where the array is read-only (torch warns, and the engine may write into its inputs) or strided (the engine ignores strides)
        tensors = [self._torch.from_numpy(array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")) for array in arrays]
        try:
            return [tensor.numpy() for tensor in module.run_method(self._method, tensors)]
        except RuntimeError as error:
            raise EngineRefused(f"ExecuTorch {self.version} stopped while running: {first_line(error)}; check the inputs and the free memory") from error

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean time of every operation as the event tracer tells it, delegates' own included, from a module of its own; None where it was left out."""
        traced = self._bindings._load_for_executorch(self._path, enable_etdump=True)
        if not traced.has_etdump():
            return None
        for _ in range(repeats + 1):
            self._run(traced, arrays)
        with tempfile.TemporaryDirectory(prefix="embarq-run-") as folder:
            traced.write_etdump_result_to_file(str(Path(folder) / "etdump"))
            data = (Path(folder) / "etdump").read_bytes()
        try:
            return operation_times(data, repeats) or None
        except ValueError as error:
            raise EngineRefused(f"ExecuTorch {self.version} wrote a trace that cannot be read: {error}; use the version that the artifact names") from error

    def close(self) -> None:
        """Give the memory back."""
        self._module = None


def _signature(name: str, info: Any) -> Signature:
    return name, tuple(int(n) for n in info.sizes()), DTYPES.get(int(info.dtype()), f"ScalarType {int(info.dtype())}")
