"""One way to open and run a model, whichever engine computes it.

An engine has `name`, `version`, `inputs` and `outputs` (lists of (name, shape, dtype)), `run(arrays) -> arrays`,
`profile(arrays, repeats) -> [{"name", "op", "ms"}, ...] or None`, `why_no_profile` (a sentence where profile gives None) and `close()`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from .errors import BadRequest, EngineMissing, EngineRefused

__all__ = ["NAMES", "Engine", "EngineMissing", "EngineRefused", "check_options", "missing", "open_engine", "set_threads"]

#: (name, shape, dtype) of one input or output
Signature = tuple
NAMES = ("onnx", "litert", "tflite-runtime", "executorch", "tensorrt", "torch", "native")
#: Pools that would otherwise start one thread per core: of the engines, and of numpy's BLAS, which here computes nothing.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Engine(Protocol):
    """A loaded model. `run` and `profile` take one array per input, in the file's order, of exactly its shape and type."""

    name: str
    version: str
    inputs: list[Signature]
    outputs: list[Signature]
    why_no_profile: str

    def run(self, arrays: list[Any]) -> list[Any]:
        """One inference; the outputs are the caller's own."""

    def profile(self, arrays: list[Any], repeats: int) -> list[dict[str, Any]] | None:
        """Mean milliseconds of every operation, in the order in which they ran."""

    def close(self) -> None:
        """Give the memory back."""


def set_threads(threads: int) -> None:
    """Say the number of threads to every pool that is told by the environment; call it before numpy or an engine is imported."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    for name in BLAS_VARIABLES:
        os.environ[name] = "1"


def open_engine(engine: str, path: str, threads: int, options: Mapping[str, Any] | None = None) -> Engine:
    """`path` loaded by `engine` on `threads` threads.

    options: the engine's own; onnx {"providers", "optimisation", "session"}, litert and tflite-runtime {"kernels"}, executorch {"method"}; native none.
    Raises `EngineMissing` (the package to install is named), `EngineRefused` (the file cannot be opened), `BadRequest` (an unknown option).
    """
    if threads < 1:
        raise BadRequest(f"{threads} threads were asked for; give 1 or more")
    opened: Engine
    if engine == "onnx":
        from .onnx_engine import OnnxEngine

        opened = OnnxEngine(path, threads, options or {})
    elif engine in ("litert", "tflite-runtime"):
        from .litert_engine import LitertEngine

        opened = LitertEngine(path, threads, options or {}, engine)
    elif engine == "executorch":
        from .executorch_engine import ExecutorchEngine

        opened = ExecutorchEngine(path, threads, options or {})
    elif engine == "torch":
        from .torch_engine import TorchEngine

        opened = TorchEngine(path, threads, options or {})
    elif engine == "tensorrt":
        opened = _tensorrt(path, threads, options or {})
    elif engine == "native":
        from .native_engine import NativeEngine

        opened = NativeEngine(path, threads, options or {})
    else:
        raise BadRequest(f"engine {engine!r} is not known; choose from {', '.join(NAMES)}")
    return opened


def _tensorrt(path: str, threads: int, options: Mapping[str, Any]) -> Engine:
    from importlib import import_module

    try:  # by name: the zipapp of a release without TensorRT support has no such module
        module = import_module(".tensorrt_engine", __package__)
    except ModuleNotFoundError as error:
        raise EngineMissing("this runner was built without its TensorRT half; use the embarq-run of a release that has it") from error
    return module.open_tensorrt(path, threads, dict(options))  # type: ignore[no-any-return]


def check_options(engine: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises `BadRequest` for an option that the engine does not know: a misspelt one must not be ignored."""
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BadRequest(f"{engine} has no option {unknown[0]!r}; it knows {', '.join(known) or 'none'}")


def missing(package: str, error: Exception) -> EngineMissing:
    """The sentence for an engine that cannot be imported: not installed, or installed and broken."""
    import sys

    if isinstance(error, ModuleNotFoundError):
        return EngineMissing(f"{package} is not installed for {sys.executable}; there: {sys.executable} -m pip install {package}")
    return EngineMissing(f"{package} is installed and does not load ({first_line(error)}); install it again for this Python, with the numpy it was built for")


def first_line(error: BaseException) -> str:
    """An error's first line, short enough for a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 300 else text[:300] + "..."


def versions() -> dict[str, str]:
    """Versions of the engines' packages that are installed here."""
    from .bundle import installed

    found = {name: installed(name) for name in ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime", "executorch", "torch", "tensorrt")}
    return {name: version for name, version in found.items() if version}
