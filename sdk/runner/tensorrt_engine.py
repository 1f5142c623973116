"""TensorRT on a Jetson: finds or builds this device's engine and runs it; else ONNX Runtime's CUDA, else its CPU, saying which and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import tensorrt_build as building
from .engines import Engine, Signature, check_options, first_line
from .errors import EngineRefused

#: What the recipe said on the host; it is in the file already and changes nothing here.
DECIDED = ("tensorrt", "device", "sparsity", "fp16", "range")
OPTIONS = ("flags", "workspace_bytes", "weights_bytes", "tensorrt_min", "opset", "dtypes")
PROVIDERS = (("CUDAExecutionProvider", "ONNX Runtime on CUDA"), ("CPUExecutionProvider", "ONNX Runtime on the CPU"))
ENGINE_ENDINGS = (".engine", ".plan", ".trt")


def open_tensorrt(path: str, threads: int, options: Mapping[str, Any]) -> Engine:
    """An engine for the ONNX model `path`; `.note` says which one runs and why, "" where TensorRT does and nothing was amiss.

    threads: of ONNX Runtime, should it come to that. Raises EngineRefused for a ready-made engine file (only what this device
    built itself is read) and where no engine takes the model, EngineMissing where ONNX Runtime is wanted and absent.
    """
    check_options("tensorrt", options, OPTIONS + DECIDED)
    if path.lower().endswith(ENGINE_ENDINGS):
        raise EngineRefused(f"{Path(path).name} is a ready-made TensorRT engine, which belongs to the machine that built it; give the .onnx model")
    try:
        trt = _tensorrt(options)
        return TensorrtEngine(trt, _cuda(), Path(path), options)
    except EngineRefused as refused:
        return _fall_back(path, threads, str(refused))


def _tensorrt(options: Mapping[str, Any]) -> Any:
    try:
        import tensorrt
    except Exception as error:  # a broken install raises what it likes
        raise EngineRefused(f"TensorRT is not usable from this Python ({first_line(error)}); use the python3 that JetPack installed it for") from error
    wanted = str(options.get("tensorrt_min", "8.2"))
    if _version(tensorrt.__version__) < _version(wanted):
        raise EngineRefused(f"TensorRT {tensorrt.__version__} is older than {wanted}, which the artifact was written for; compile with option tensorrt='8.2'")
    return tensorrt


def _version(text: str) -> tuple:
    """(8, 5): the release line; what follows does not change what the parser reads."""
    parts = [p for p in text.split(".")[:2] if p.isdigit()]
    return tuple(int(p) for p in parts)


def _cuda() -> Any:
    from .cuda import Cuda

    return Cuda()


def _fall_back(path: str, threads: int, why: str) -> Engine:
    """ONNX Runtime with the best provider it has. The CPU provider is tried where CUDA is there and does not start."""
    from .onnx_engine import OnnxEngine

    have = _providers()
    for provider, name in PROVIDERS:
        if provider not in have and provider != "CPUExecutionProvider":
            continue
        try:
            engine = OnnxEngine(path, threads, {"providers": list(dict.fromkeys([provider, "CPUExecutionProvider"]))})
        except EngineRefused as refused:
            if provider == "CPUExecutionProvider":
                raise EngineRefused(f"no engine took the model; TensorRT: {why}; {refused}") from refused
            why = f"{why}; {name} refused too ({first_line(refused)})"
            continue
        engine.note = f"{_started(engine, provider, name)} runs the model instead of TensorRT: {why}"  # type: ignore[attr-defined]
        return engine
    raise EngineRefused(f"no engine took the model; TensorRT: {why}")


def _providers() -> list[str]:
    """The providers of the installed ONNX Runtime; none where it is absent, which opening then says in full."""
    try:
        import onnxruntime
    except Exception:
        return []
    return list(onnxruntime.get_available_providers())


def _started(engine: Any, provider: str, name: str) -> str:
    """ONNX Runtime drops a provider that fails to start with a log line only: say what is really in use."""
    used = engine._session.get_providers()
    return name if provider in used else "ONNX Runtime on the CPU (its CUDA did not start)"


class TensorrtEngine:
    """This device's engine of an ONNX model. Raises EngineRefused where it cannot be built, does not fit, or does not start."""

    name = "tensorrt"
    why_no_profile = ""

    def __init__(self, trt: Any, cuda: Any, path: Path, options: Mapping[str, Any]) -> None:
        self._trt, self._cuda, self.version = trt, cuda, str(trt.__version__)
        self._addresses: dict[str, int] = {}
        content, self.note = find_or_build(trt, cuda, path, options)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineRefused(f"TensorRT {self.version} does not start the engine it built from {path.name}; delete {path.parent / building.CACHE}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineRefused(f"there is too little GPU memory to run {path.name}; close other programs")
        self._bind(_ports(trt, self._engine), options.get("dtypes") or {})

    def _bind(self, ports: list[tuple[bool, Signature]], dtypes: Mapping[str, str]) -> None:
        """Lend each input and output its memory. Outside they have the model's types: TensorRT 8 binds int64 as int32."""
        self._bound = {name: dtype for _, (name, _, dtype) in ports}
        outside = [(is_input, (name, shape, dtypes.get(name, dtype))) for is_input, (name, shape, dtype) in ports]
        self.inputs: list[Signature] = [port for is_input, port in outside if is_input]
        self.outputs: list[Signature] = [port for is_input, port in outside if not is_input]
        self._order = [port[0] for _, port in ports]
        for _, (name, shape, dtype) in ports:
            self._addresses[name] = self._cuda.allocate(int(np.prod(shape)) * np.dtype(dtype).itemsize)

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference: inputs up, compute, outputs down."""
        for (name, _, _), array in zip(self.inputs, arrays):
            self._cuda.upload(self._addresses[name], np.ascontiguousarray(array, self._bound[name]))
        if not self._execute():
            raise EngineRefused(f"TensorRT {self.version} stopped while running; check free memory with tegrastats")
        self._cuda.synchronise()
        made = [np.empty(shape, self._bound[name]) for name, shape, _ in self.outputs]
        for (name, _, _), array in zip(self.outputs, made):
            self._cuda.download(array, self._addresses[name])
        return [array.astype(dtype, copy=False) for array, (_, _, dtype) in zip(made, self.outputs)]

    def _execute(self) -> bool:
        # bindings in the engine's order; every TensorRT up to 10 has this call, and it waits for the end
        return bool(self._context.execute_v2([self._addresses[name] for name in self._order]))

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean milliseconds of every layer as TensorRT fused them; an operation's kind is not told."""
        times: dict[str, float] = {}
        self._context.profiler = _profiler(self._trt, times)
        self.run(arrays)  # warms up
        times.clear()
        for _ in range(repeats):
            self.run(arrays)
        return [{"name": name, "op": "", "ms": total / repeats} for name, total in times.items()]

    def close(self) -> None:
        """Give the memory back."""
        while self._addresses:
            self._cuda.release(self._addresses.popitem()[1])
        self._context = self._engine = self._runtime = None


def find_or_build(trt: Any, cuda: Any, path: Path, options: Mapping[str, Any]) -> tuple[bytes, str]:
    """(engine, what was amiss): the kept engine of exactly this device, or a new one, after its memory was checked."""
    key = building.key_of(path, str(trt.__version__), cuda.gpu, options)
    cache = building.Cache(path.parent / building.CACHE)
    content, why = cache.find(key)
    if content is not None:
        return content, ""
    free = {"the system": building.available_bytes(), "CUDA": cuda.free_bytes()}
    try:
        building.check_memory(path.stat().st_size, key.workspace_bytes, free)
        content = building.build(trt, path, key)
    except EngineRefused as refused:
        raise EngineRefused(f"{why}, but {refused}" if why else str(refused)) from refused
    kept = cache.keep(key, content)
    return content, "; ".join(filter(None, (why, kept)))


def _ports(trt: Any, engine: Any) -> list[tuple[bool, Signature]]:
    """(is input, (name, shape, dtype)) in binding order; TensorRT 8.5 and newer speak of tensors, older ones of bindings."""
    found = []
    if hasattr(engine, "num_io_tensors"):
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found.append((is_input, (name, tuple(engine.get_tensor_shape(name)), _dtype(trt, engine.get_tensor_dtype(name)))))
        return found
    for i in range(engine.num_bindings):
        signature = (engine.get_binding_name(i), tuple(engine.get_binding_shape(i)), _dtype(trt, engine.get_binding_dtype(i)))
        found.append((bool(engine.binding_is_input(i)), signature))
    return found


def _dtype(trt: Any, kind: Any) -> str:
    return str(np.dtype(trt.nptype(kind)))


def _profiler(trt: Any, times: dict[str, float]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name] = times.get(layer_name, 0.0) + ms

    return Profiler()
