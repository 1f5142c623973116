"""A loaded artifact and what can be asked of it: the methods behind `serve`, and behind the commands that run once and print."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from . import arrays, compare, engines, health, measure, rpc
from .bundle import Bundle, machine
from .errors import BadRequest, EngineRefused

PROTOCOL = 1
PROFILE_REPEATS = 20


class Served:
    """The engine with the artifact's file in it. `memory_steps` tells resident bytes before the engine, after loading, at the peak."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        before = health.memory()["rss_bytes"]
        self.engine = engines.open_engine(bundle.engine, str(bundle.entry), bundle.threads, bundle.options)
        self._check_signature()
        self.memory_steps = {"before_engine_bytes": before, "after_load_bytes": health.memory()["rss_bytes"]}
        self.finished = False

    def _check_signature(self) -> None:
        """The file must take what the manifest says, or every later error would speak of the wrong thing."""
        for kind in ("inputs", "outputs"):
            ports, found = self.bundle.manifest[kind], getattr(self.engine, kind)
            wanted = [(list(p["shape"]), p["dtype"]) for p in ports]
            have = [([w if s == -1 else s for s, w in _pairs(shape, wanted, i)], dtype) for i, (_, shape, dtype) in enumerate(found)]
            if wanted != have:
                raise EngineRefused(f"{self.bundle.entry.name} has the {kind} {have} and its manifest says {wanted}; compile the artifact again")

    def info(self, _: dict[str, Any]) -> dict[str, Any]:
        """Who answers: the artifact, the engine and its version, the machine."""
        manifest, engine = self.bundle.manifest, self.engine
        return {
            "protocol": PROTOCOL, "name": manifest["name"], "plan_id": manifest.get("plan_id"), "engine": engine.name, "engine_version": engine.version,
            "engine_note": getattr(engine, "note", ""), "threads": self.bundle.threads,
            "inputs": manifest["inputs"], "outputs": manifest["outputs"], "machine": machine(),
            "python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(), "versions": engines.versions(),
            "pid": os.getpid(), "note": getattr(engine, "note", ""), **self.memory_steps,
        }  # fmt: skip

    def run(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"inputs": [array, ...]} -> {"outputs": [array, ...]}."""
        given = params.get("inputs")
        if not isinstance(given, list):
            raise BadRequest("run needs inputs, a list of arrays; give one per input of the model")
        inputs = arrays.check_inputs(self.bundle, [arrays.unpack(record) for record in given])
        return {"outputs": [arrays.pack(array) for array in self.engine.run(inputs)]}

    def verify(self, _: dict[str, Any], progress: Callable[[str], None] | None = None) -> dict[str, Any]:
        """The golden vectors, run and compared here."""
        names = [port["name"] for port in self.bundle.manifest["outputs"]]
        tolerance = float(self.bundle.manifest["golden"].get("tolerance", 0.0))
        report = compare.prove(arrays.golden(self.bundle), names, tolerance, self.engine.run, progress)
        return {**report, "ok": report["first_difference"] is None, **health.memory()}

    def bench(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"warmup", "repeats", "fresh"}: ms of every run on the first golden input. fresh: in a new process, whose peak memory is then the engine's."""
        warmup, repeats = _count(params, "warmup", 3), _count(params, "repeats", 20)
        if params.get("fresh"):
            return measure.fresh(measure.program(), str(self.bundle.folder), self.bundle.engine, warmup, repeats)
        times = measure.bench(self.engine, self._sample(), warmup, repeats)
        return {"ms": times, **measure.summary(times), "engine": self.engine.name, "engine_version": self.engine.version, "threads": self.bundle.threads,
                **self.memory_steps, **health.memory(), "library_bytes": health.library_bytes()}  # fmt: skip

    def profile(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"inputs", "repeats"}: ms of one inference and, where the engine tells, of each operation (else `layers` is None and `note` says why)."""
        given, repeats = params.get("inputs"), _count(params, "repeats", PROFILE_REPEATS)
        inputs = arrays.check_inputs(self.bundle, [arrays.unpack(r) for r in given]) if isinstance(given, list) and given else self._sample()
        times = measure.bench(self.engine, inputs, 1, max(repeats, 1))
        layers = self.engine.profile(inputs, max(repeats, 1))
        return {"layers": layers, "note": "" if layers is not None else self.engine.why_no_profile, **measure.summary(times)}

    def _sample(self) -> list[Any]:
        vectors = arrays.golden(self.bundle)
        if not vectors:
            raise BadRequest(f"{self.bundle.manifest['name']} has no golden vectors to run; compile it with some")
        return vectors[0][0]

    def health(self, _: dict[str, Any]) -> dict[str, Any]:
        """Memory of this process, temperature and throttling of the device."""
        return health.health()

    def shutdown(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer, then end."""
        self.finished = True
        return {}

    def methods(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """What the protocol offers, by name."""
        return {
            "info": self.info, "verify": self.verify, "run": self.run, "bench": self.bench, "profile": self.profile, "health": self.health,
            "shutdown": self.shutdown,
        }  # fmt: skip


def _pairs(shape: tuple[int, ...], wanted: list[tuple[list[int], str]], index: int) -> list[tuple[int, int]]:
    other = wanted[index][0] if index < len(wanted) else []
    return [(size, other[i] if i < len(other) else size) for i, size in enumerate(shape)]


def _count(params: dict[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{name} is a whole number, not {value!r}")
    return value


def serve_streams(bundle: Bundle, source: BinaryIO, sink: BinaryIO) -> None:
    """Load the artifact and answer requests until shutdown or the end of `source`."""
    served = Served(bundle)
    rpc.serve(source, sink, served.methods(), lambda: served.finished)
    served.engine.close()


def protocol_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for the protocol alone: whatever an engine prints, in Python or in C, goes to stderr from here on."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return sys.stdin.buffer, sink
