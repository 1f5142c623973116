"""Builds a TensorRT engine on the device it will run on, keeps it beside the artifact, and refuses one that is not its own.

An engine is bound to the TensorRT, the CUDA and the GPU that built it, and reading it back runs what is in it. So the kept
engine is used only where every fact of its key and its hash agree; otherwise it is left unread and a new one is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bundle import file_sha256
from .errors import EngineRefused

#: Names of the flags in a payload's options -> those of `tensorrt.BuilderFlag`.
FLAGS = {"fp16": "FP16", "int8": "INT8", "sparse_weights": "SPARSE_WEIGHTS"}
WORKSPACE_BYTES = 256 << 20
#: The builder holds the weights as read, as float, and once for each precision it tries, beside the finished engine. An estimate, not measured.
WEIGHT_COPIES = 5
#: CUDA's context and the builder's libraries. An allowance, not measured on a Jetson.
LIBRARIES_BYTES = 512 << 20
CACHE = "engines"
_MIB = 1 << 20


@dataclass(frozen=True)
class Key:
    """What an engine belongs to. Two keys that differ anywhere are two engines."""

    onnx_sha256: str
    tensorrt: str
    cuda_driver: int
    cuda_runtime: int
    gpu: str
    capability: str
    flags: tuple
    workspace_bytes: int

    @property
    def digest(self) -> str:
        """The name under which it is kept."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:24]

    def record(self) -> dict[str, Any]:
        """As JSON has it: lists for tuples."""
        return {**asdict(self), "flags": list(self.flags)}


def key_of(path: Path, version: str, gpu: Any, options: Mapping[str, Any]) -> Key:
    """The key of the engine that this device would build from `path`. Raises EngineRefused for an unknown flag."""
    flags = tuple(sorted(options.get("flags", ())))
    unknown = [f for f in flags if f not in FLAGS]
    if unknown:
        raise EngineRefused(f"the artifact asks for the build flag {unknown[0]!r}, which this runner does not know; use its own embarq's runner")
    workspace = int(options.get("workspace_bytes", WORKSPACE_BYTES))
    return Key(file_sha256(path), version, gpu.driver, gpu.runtime, gpu.name, gpu.capability, flags, workspace)


def needed_bytes(size_bytes: int, workspace_bytes: int) -> int:
    """Memory that a build takes: workspace, the weights several times, libraries. `size_bytes` is that of the ONNX file."""
    return workspace_bytes + WEIGHT_COPIES * size_bytes + LIBRARIES_BYTES


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """MemAvailable of the system, None where it does not tell."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def check_memory(size_bytes: int, workspace_bytes: int, free: Mapping[str, int | None]) -> None:
    """Raises EngineRefused where a build would not fit. `free`: bytes by who says so; a Jetson's CPU and GPU share one memory, so the least counts."""
    need = needed_bytes(size_bytes, workspace_bytes)
    known = {who: value for who, value in free.items() if value is not None}
    for who, value in sorted(known.items(), key=lambda item: item[1]):
        if value < need:
            raise EngineRefused(
                f"building the engine needs about {need // _MIB} MiB (workspace {workspace_bytes // _MIB}, weights {WEIGHT_COPIES} x {size_bytes // _MIB}, "
                f"libraries {LIBRARIES_BYTES // _MIB}) and {who} has {value // _MIB} MiB free; close other programs or compile with a smaller workspace_bytes"
            )


class Cache:
    """Engines beside an artifact: `<digest>.engine`, and `<digest>.json` with the key and the engine's hash, written last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: Key) -> tuple[bytes | None, str]:
        """(the engine, "") or (None, why not): nothing kept, or a sentence on what is foreign or damaged. Nothing is deserialised here."""
        note, engine = self.folder / f"{key.digest}.json", self.folder / f"{key.digest}.engine"
        if not note.is_file() or not engine.is_file():
            return None, self._others(key)
        try:
            record, content = json.loads(note.read_text()), engine.read_bytes()
        except (OSError, ValueError) as error:
            return None, f"the kept engine {engine.name} cannot be read ({error}); a new one is built"
        if not isinstance(record, dict) or record.get("key") != key.record():
            return None, f"the kept engine {engine.name} is foreign: {_difference(record, key)}; it is not read and a new one is built"
        if record.get("sha256") != hashlib.sha256(content).hexdigest():
            return None, f"the kept engine {engine.name} is not the file that was built here (hash mismatch); it is not read and a new one is built"
        return content, ""

    def _others(self, key: Key) -> str:
        """Why the engines that are kept are not this one."""
        for note in sorted(self.folder.glob("*.json")):
            try:
                record = json.loads(note.read_text())
            except (OSError, ValueError):
                continue
            return f"the kept engine {note.stem}.engine is foreign: {_difference(record, key)}; it is not read and a new one is built"
        return ""

    def keep(self, key: Key, content: bytes) -> str:
        """Write an engine so that a cut leaves either the old or the new one; a sentence where the folder cannot be written, else ""."""
        record = {"key": key.record(), "sha256": hashlib.sha256(content).hexdigest()}
        try:
            self.folder.mkdir(exist_ok=True)
            note = self.folder / f"{key.digest}.json"
            note.unlink(missing_ok=True)  # an engine without its note is not used
            _write(self.folder / f"{key.digest}.engine", content)
            _write(note, json.dumps(record, indent=1, sort_keys=True).encode())
        except OSError as error:
            return f"the engine could not be kept in {self.folder} ({error.strerror}); it is built again the next time"
        return ""


def _difference(record: Any, key: Key) -> str:
    """The first fact in which a kept engine's key differs."""
    have = record.get("key") if isinstance(record, dict) else None
    if not isinstance(have, dict):
        return "its note has no key"
    for name, wanted in key.record().items():
        if have.get(name) != wanted:
            return f"its {name} is {have.get(name)!r} and here it is {wanted!r}"
    return "its key has unknown entries"


def _write(path: Path, content: bytes) -> None:
    """All of it, or nothing under that name."""
    handle, name = tempfile.mkstemp(prefix=".", dir=str(path.parent))
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


def build(trt: Any, path: Path, key: Key) -> bytes:
    """The serialised engine, built by this device's TensorRT. Raises EngineRefused with TensorRT's own first error."""
    logger = _collector(trt)
    builder = trt.Builder(logger)
    _check_hardware(builder, key)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        told = str(parser.get_error(0)) if parser.num_errors else "no reason given"
        raise EngineRefused(f"TensorRT {trt.__version__} cannot read {path.name}: {_line(told)}; compile with option tensorrt={_release(trt)!r}")
    config = builder.create_builder_config()
    _set_workspace(trt, config, key.workspace_bytes)
    for flag in key.flags:
        _set_flag(trt, config, flag)
    content = builder.build_serialized_network(network, config)
    if content is None:
        told = logger.errors[0] if logger.errors else "no reason given"
        raise EngineRefused(f"TensorRT {trt.__version__} could not build an engine from {path.name}: {_line(told)}; try float16, or more workspace_bytes")
    return bytes(content)


def _check_hardware(builder: Any, key: Key) -> None:
    """int8 on a GPU without it would be refused late, or run in float without a word."""
    if "int8" in key.flags and getattr(builder, "platform_has_fast_int8", True) is False:
        raise EngineRefused(f"{key.gpu} (compute capability {key.capability}) has no int8 in TensorRT; compile with precision float16")


def _set_workspace(trt: Any, config: Any, size_bytes: int) -> None:
    if hasattr(config, "set_memory_pool_limit"):  # 8.4 and newer
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
    else:
        config.max_workspace_size = size_bytes


def _set_flag(trt: Any, config: Any, flag: str) -> None:
    value = getattr(trt.BuilderFlag, FLAGS[flag], None)
    if value is not None:
        config.set_flag(value)
    elif flag != "int8":  # strongly typed networks (11) take int8 from the Q/DQ pairs alone
        raise EngineRefused(f"TensorRT {trt.__version__} has no build flag {FLAGS[flag]}; compile without {flag} or use JetPack's TensorRT")


def _collector(trt: Any) -> Any:
    """A logger that keeps errors for our sentence and prints nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Collector()


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _release(trt: Any) -> str:
    return ".".join(trt.__version__.split(".")[:2])
