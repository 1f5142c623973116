"""A stand-in for the `tensorrt` module and for CUDA, to test what the builder decides. It computes nothing: no result of a model is tested with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from sdk.runner.cuda import Gpu


@dataclass
class Calls:
    """What was asked of the fake."""

    built: int = 0
    deserialised: list[bytes] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    workspace_bytes: int | None = None
    network_flags: int | None = None


FLAGS = ("FP16", "INT8", "SPARSE_WEIGHTS")


def module(version: str = "8.5.2.2", *, fast_int8: bool = True, parses: bool = True, builds: bool = True, flags: tuple[str, ...] = FLAGS) -> Any:
    """`tensorrt` of a version, one float input `x` [1, 4] and one output `y` [1, 2]; `.calls` records."""
    trt = ModuleType("tensorrt")
    trt.__version__, trt.calls = version, Calls()  # type: ignore[attr-defined]
    old = tuple(int(p) for p in version.split(".")[:2]) < (8, 5)
    _types(trt, flags)
    trt.Builder = lambda logger: _Builder(trt, logger, fast_int8, builds, old)  # type: ignore[attr-defined]
    trt.OnnxParser = lambda network, logger: _Parser(parses)  # type: ignore[attr-defined]
    trt.Runtime = lambda logger: _Runtime(trt, old)  # type: ignore[attr-defined]
    return trt


def _types(trt: Any, flags: tuple[str, ...]) -> None:
    class Logger:
        ERROR = 1
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

        def __init__(self, *_: Any) -> None:
            pass

    trt.ILogger = trt.Logger = Logger
    trt.IProfiler = type("IProfiler", (), {"__init__": lambda self: None})
    trt.BuilderFlag = SimpleNamespace(**{f: f for f in flags})
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    trt.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    trt.nptype = lambda kind: kind


class _Builder:
    def __init__(self, trt: Any, logger: Any, fast_int8: bool, builds: bool, old: bool) -> None:
        self.trt, self.logger, self.platform_has_fast_int8, self.builds, self.old = trt, logger, fast_int8, builds, old

    def create_network(self, flags: int) -> Any:
        self.trt.calls.network_flags = flags
        return object()

    def create_builder_config(self) -> Any:
        calls = self.trt.calls

        class Config:
            max_workspace_size = 0

            def set_flag(self, flag: str) -> None:
                calls.flags.append(flag)

        class Newer(Config):
            def set_memory_pool_limit(self, pool: str, size: int) -> None:
                calls.workspace_bytes = size

        self.config = Config() if self.old else Newer()
        return self.config

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        if self.old:
            self.trt.calls.workspace_bytes = config.max_workspace_size
        if not self.builds:
            self.logger.log(1, "Could not find any implementation for node conv1")
            return None
        self.trt.calls.built += 1
        return b"engine %d of %s" % (self.trt.calls.built, self.trt.__version__.encode())


class _Parser:
    num_errors = 1

    def __init__(self, parses: bool) -> None:
        self.parses = parses

    def parse(self, content: bytes) -> bool:
        return self.parses

    def get_error(self, index: int) -> str:
        return "In node 3 (importMish): UNSUPPORTED_NODE"


class _Runtime:
    def __init__(self, trt: Any, old: bool) -> None:
        self.trt, self.old = trt, old

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self.trt.calls.deserialised.append(content)
        return (_old_engine if self.old else _new_engine)()


def _context() -> Any:
    return SimpleNamespace(execute_v2=lambda bindings: all(bindings), profiler=None)


def _new_engine() -> Any:
    names, shapes = ["x", "y"], {"x": (1, 4), "y": (1, 2)}
    return SimpleNamespace(
        num_io_tensors=2, get_tensor_name=names.__getitem__, get_tensor_mode={"x": "in", "y": "out"}.__getitem__,
        get_tensor_shape=shapes.__getitem__, get_tensor_dtype=lambda n: np.float32, create_execution_context=_context,
    )  # fmt: skip


def _old_engine() -> Any:
    names, shapes = ["x", "y"], [(1, 4), (1, 2)]
    return SimpleNamespace(
        num_bindings=2, get_binding_name=names.__getitem__, binding_is_input=[True, False].__getitem__,
        get_binding_shape=shapes.__getitem__, get_binding_dtype=lambda i: np.float32, create_execution_context=_context,
    )  # fmt: skip


class Cuda:
    """Counts what is lent; memory is host memory."""

    def __init__(self, free: int = 4 << 30, gpu: Gpu = Gpu("Orin", "8.7", 12020, 12020)) -> None:  # noqa: B008  (frozen)
        self.free, self.gpu, self.lent, self.next = free, gpu, {}, 4096  # type: ignore[var-annotated]

    def free_bytes(self) -> int:
        return self.free

    def allocate(self, size_bytes: int) -> int:
        self.next += 4096
        self.lent[self.next] = bytes(size_bytes)
        return self.next

    def release(self, address: int) -> None:
        del self.lent[address]

    def upload(self, address: int, array: Any) -> None:
        assert len(self.lent[address]) == array.nbytes
        self.lent[address] = array.tobytes()

    def download(self, array: Any, address: int) -> None:
        assert array.nbytes == len(self.lent[address])
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(self.lent[address], np.uint8)

    def synchronise(self) -> None:
        pass


def install(monkeypatch: Any, trt: Any, cuda: Cuda) -> None:
    """Let the runner find the fakes."""
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr("sdk.runner.tensorrt_engine._cuda", lambda: cuda)
