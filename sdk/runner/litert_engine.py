"""LiteRT (`ai-edge-litert`), and its predecessor `tflite-runtime` where a device still runs that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .engines import Signature, check_options, first_line, missing
from .errors import BadRequest, EngineRefused
from .litert_profile import VERSIONS, operation_times

#: option `kernels` -> member of OpResolverType. "default" is XNNPACK's kernels where they exist; "reference" is the slow definition.
KERNELS = {"default": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
PACKAGES = {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}


def _interpreter(engine: str) -> Any:
    try:
        if engine == "litert":
            from ai_edge_litert import interpreter
        else:
            from tflite_runtime import interpreter
    except (Exception, SystemError) as error:  # tflite-runtime beside numpy 2: SystemError out of the import
        raise missing(PACKAGES[engine], error) from error
    return interpreter


class LitertEngine:
    """A `.tflite` file. options: `kernels` (default, builtin, reference)."""

    why_no_profile = (
        f"times per operation come from ai-edge-litert {' or '.join(VERSIONS)} with its default kernels, no other; for others, "
        "run benchmark_model --enable_op_profiling from LiteRT's sources"
    )

    def __init__(self, path: str, threads: int, options: Mapping[str, Any], engine: str = "litert") -> None:
        from .bundle import installed

        check_options(engine, options, ("kernels",))
        kernels = options.get("kernels", "default")
        if kernels not in KERNELS:
            raise BadRequest(f"kernels {kernels!r} is not known; choose from {', '.join(KERNELS)}")
        module = _interpreter(engine)
        self._path, self._threads, self._kernels = path, threads, kernels
        self.name, self.version = engine, installed(PACKAGES[engine]) or "unknown"
        try:
            resolver = getattr(module.OpResolverType, KERNELS[kernels])
            self._interpreter = module.Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=resolver)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineRefused(f"{engine} {self.version} does not open {path}: {first_line(error)}; compile it for this version") from error
        details_in, details_out = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = [_signature(d) for d in details_in], [_signature(d) for d in details_out]
        self._in, self._out = [d["index"] for d in details_in], [d["index"] for d in details_out]

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference."""
        try:
            for index, array in zip(self._in, arrays):
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._out]
        except (ValueError, RuntimeError) as error:
            raise EngineRefused(f"{self.name} {self.version} stopped while running: {first_line(error)}; check the inputs and the free memory") from error

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean time of every operation, from a second copy of the model; None where this LiteRT cannot tell (`why_no_profile`)."""
        if self.name != "litert" or self.version not in VERSIONS or self._kernels != "default":
            return None
        return operation_times(self._path, self._threads, arrays, repeats)

    def close(self) -> None:
        """Give the memory back."""
        self._interpreter = None


def _signature(detail: Mapping[str, Any]) -> Signature:
    name = str(detail["name"])
    return name, tuple(int(n) for n in detail["shape"]), np.dtype(detail["dtype"]).name
