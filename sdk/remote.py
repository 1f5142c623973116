"""A model on a Linux device: run it, profile it, prove it. The runner is a process there, or here as a child of this one."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

from firmware_bridge.runner import CALL_TIMEOUT_S, LocalPipe, Pipe, RunnerClient
from sdk.bundle import MANIFEST, canonical_json, write_bundle
from sdk.errors import DeviceError, EmbarqError, LinkError, UsageError, VerificationFailed
from sdk.golden import Golden, check_input, dequantise_array
from sdk.graph.ir import Tensor
from sdk.session import VerifyReport
from sdk.zipapp import runner_zipapp, training_zipapp

if TYPE_CHECKING:
    from firmware_bridge.ssh import Ask
    from firmware_bridge.ssh_slot import Package, Slot
    from sdk.artifact import Artifact
    from sdk.remote_training import TrainingClient
    from sdk.train_result import TrainResult, TrainStep

Progress = Callable[[str], None]
LOCAL_QUERY = ("python", "engine")


@dataclass(frozen=True)
class LayerTime:
    """One operation of the engine, as the engine names it: mean milliseconds of one inference."""

    name: str
    op: str
    ms: float


@dataclass(frozen=True)
class RemoteProfile:
    """Cost of one inference. `rows` is empty where the engine gives no time per operation; `note` then says so."""

    rows: tuple[LayerTime, ...]
    total_ms: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"total_ms": self.total_ms, "note": self.note, "steps": [vars(row) for row in self.rows]}

    def __str__(self) -> str:
        spent = sum(row.ms for row in self.rows) or 1.0
        width = min(max([len(row.name) for row in self.rows] + [5]), 40)
        lines = [f"{'layer':<{width}}  {'op':<18} {'ms':>10}  share"] if self.rows else [self.note]
        for row in self.rows:
            lines.append(f"{row.name[-width:]:<{width}}  {row.op:<18} {row.ms:>10.4f}  {100 * row.ms / spent:4.1f} % {'█' * round(20 * row.ms / spent)}")
        return "\n".join([*lines, f"one inference: {self.total_ms:.3f} ms"])


@dataclass(frozen=True)
class Bench:
    """Times of single inferences in ms, and the highest resident memory of the process that ran them."""

    ms: tuple[float, ...]
    engine: str
    engine_version: str
    threads: int
    peak_rss_bytes: int | None
    before_engine_bytes: int | None = None
    after_load_bytes: int | None = None

    @property
    def median_ms(self) -> float:
        """The middle one."""
        return float(np.median(self.ms))

    @property
    def p90_ms(self) -> float:
        """Nine of ten are faster."""
        return float(np.percentile(self.ms, 90))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "ms": list(self.ms), "median_ms": self.median_ms, "p90_ms": self.p90_ms}

    def __str__(self) -> str:
        peak = f", peak memory {self.peak_rss_bytes / 2**20:.1f} MiB" if self.peak_rss_bytes else ""
        spread = f"median {self.median_ms:.3f} ms, 90 % under {self.p90_ms:.3f} ms"
        return f"{self.engine} {self.engine_version}, {self.threads} threads, {len(self.ms)} runs: {spread}{peak}"


@dataclass(frozen=True)
class RemoteVerifyReport(VerifyReport):
    """What a comparison with the golden vectors found on a Linux device; `peak_rss_bytes` of the runner so far."""

    peak_rss_bytes: int | None = None
    where: str = "the device"

    def check(self) -> RemoteVerifyReport:
        """This report; raises `VerificationFailed` when it is not `ok`."""
        if not self.ok:
            raise VerificationFailed(f"{self.where} computes something else than the golden vectors: {self.first_difference}")
        return self

    def __str__(self) -> str:
        if not self.ok:
            return f"DIFFERENT: {self.first_difference}"
        peak = f"; peak memory {self.peak_rss_bytes / 2**20:.1f} MiB" if self.peak_rss_bytes else ""
        found = f"largest relative difference {self.largest_difference:.1e}, allowed {self.tolerance:.0e}"
        return f"proved on {self.where}: {self.vectors} vectors, {self.bytes_compared:,} output bytes, {found}{peak}"


@dataclass
class RemoteSession:
    """A running model on a Linux device. Close it, or use it as a context manager; the verbs are those of `sdk.session.Session`."""

    artifact: Artifact
    client: RunnerClient
    release: Callable[[], None] = field(default=lambda: None, repr=False)
    slot: Slot | None = field(default=None, repr=False)
    start_training: Callable[[], Pipe] | None = field(default=None, repr=False)
    closed: bool = field(default=False, init=False)
    _training: TrainingClient | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.inputs, self.outputs = self.artifact.tensors("inputs"), self.artifact.tensors("outputs")

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the runner and hang up; further calls do nothing."""
        if not self.closed:
            self.closed = True
            try:
                if self._training is not None:
                    self._training.close()
                self.client.close()
            finally:
                self.release()

    def info(self) -> dict[str, Any]:
        """The engine and its version, threads, machine, Python, versions of the engines installed there."""
        return dict(self.client.call("info"))

    def run(self, *inputs: Any) -> Any:
        """One inference on the device: one array per model input, in the model's own type or as real values (see `Session.run`)."""
        if len(inputs) != len(self.inputs):
            raise UsageError(f"{self.artifact.name} takes {len(self.inputs)} inputs and was given {len(inputs)}")
        arrays = [check_input(tensor, value) for tensor, value in zip(self.inputs, inputs, strict=True)]
        real = any(np.asarray(v).dtype.kind == "f" and t.dtype != "float32" for t, v in zip(self.inputs, inputs, strict=True))
        outputs = [_real(t, a) if real else a for t, a in zip(self.outputs, self._run(arrays), strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        from sdk.runner.arrays import pack, unpack

        result = self.client.call("run", {"inputs": [pack(array) for array in arrays]})
        return [unpack(record) for record in result["outputs"]]

    def run_each(self, samples: Any, progress: Callable[[int, int], None] | None = None) -> Iterator[Any]:
        """`run` on every sample of an array [n, ...] or a sequence, in order. progress: called with (done, of how many)."""
        for index in range(len(samples)):
            yield self.run(samples[index])
            if progress:
                progress(index + 1, len(samples))

    def verify(self, golden: Golden | None = None, progress: Progress | None = None) -> RemoteVerifyReport:
        """Run the golden vectors on the device and compare here: the device's own files are not what is trusted."""
        from sdk.runner.compare import prove

        golden = golden or self.artifact.golden
        vectors = [(list(x), list(y)) for x, y in zip(golden.inputs, golden.outputs, strict=True)]
        tolerance = float(self.artifact.manifest["golden"]["tolerance"])
        found = prove(vectors, [t.name for t in self.outputs], tolerance, self._run, progress)
        note = str(self.info().get("note") or "")
        return RemoteVerifyReport(**found, details=(note,) if note else (), peak_rss_bytes=self.health()["peak_rss_bytes"], where=self.client.pipe.name)

    def profile(self, *inputs: Any, repeats: int = 20) -> RemoteProfile:
        """Mean ms of each operation over `repeats` runs, where the engine tells; the first golden input unless given others."""
        from sdk.runner.arrays import pack

        arrays = [pack(check_input(t, v)) for t, v in zip(self.inputs, inputs, strict=True)] if inputs else []
        found = self.client.call("profile", {"inputs": arrays, "repeats": repeats})
        rows = tuple(LayerTime(row["name"], row["op"], float(row["ms"])) for row in found["layers"] or ())
        return RemoteProfile(rows, float(found["median_ms"]), str(found["note"]))

    def bench(self, repeats: int = 50, warmup: int = 5, fresh: bool = False, timeout_s: float = CALL_TIMEOUT_S) -> Bench:
        """Times of `repeats` inferences on the first golden input. fresh: in a process of its own, whose peak memory is then exact."""
        found = self.client.call("bench", {"repeats": repeats, "warmup": warmup, "fresh": fresh}, timeout_s)
        memory = [found.get(name) for name in ("peak_rss_bytes", "before_engine_bytes", "after_load_bytes")]
        return Bench(tuple(found["ms"]), found["engine"], found["engine_version"], int(found["threads"]), *memory)

    def health(self) -> dict[str, Any]:
        """Resident and peak memory of the runner, free memory, temperature, clock and throttling; None where the device does not tell."""
        return dict(self.client.call("health"))

    @property
    def training(self) -> TrainingClient:
        """The process on the device that learns, started when it is first asked for. Raises `UsageError` for an artifact made for inference only."""
        from sdk.remote_training import TrainingClient

        if "training" not in self.artifact.manifest or self.start_training is None:
            raise UsageError(f"{self.artifact.name} was compiled for inference only; compile it with training=sdk.Training(...) (or --train) to let it learn")
        if self._training is None:
            self._training = TrainingClient(RunnerClient(self.start_training()))
        return self._training

    def train(self, x: Any, y: Any, *, on_step: Callable[[TrainStep], None] | None = None, progress: Progress | None = None, **options: Any) -> TrainResult:
        """Learn on the device from inputs [n, ...] and labels [n]; what runs inference goes on with the weights it has.

        options: epochs (1), learning_rate (the plan's), decay (True: the rate falls along half a cosine to nothing), held_out (0.2: the share judged
        by, never learned from), patience (0: all epochs; else epochs without a better held-out accuracy before it stops and the best weights come
        back), resume (from the device's last checkpoint), seed. on_step: called with every update. `pull` gives the weights. Ctrl-C stops after
        the update that is running.
        Raises `DataError`, `UsageError`, `TrainingDiverged`.
        """
        from sdk.remote_training import train

        return train(self.training, x, y, on_step=on_step, progress=progress, **options)

    def pull(self) -> dict[str, np.ndarray]:
        """The values that the device has learned, by the names of the source model: batch norms unfolded, adapters merged."""
        return self.training.weights()

    def forget(self) -> None:
        """Drop what was learned since the session was opened, the device's checkpoint too: the next training begins with the artifact's weights."""
        if self._training is not None:
            self._training.forget()
            self._training.close()
            self._training = None

    def trained_artifact(self, progress: Progress | None = None) -> Artifact:
        """A new artifact with the weights that were learned, its golden vectors computed anew; this session's is left alone."""
        from sdk.remote_training import trained_artifact

        tell = progress or (lambda _: None)
        tell("pulling the weights")
        return trained_artifact(self.artifact, self.pull(), tell)

    def roll_back(self) -> str:
        """Let the device's `current` name the artifact before this one; its id. This session goes on with its own."""
        if self.slot is None:
            raise DeviceError(f"{self.client.pipe.name} keeps no versions; sessions over ssh:// do")
        return self.slot.roll_back()


def _real(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return dequantise_array(tensor, array) if tensor.quant is not None else array


def open_remote(
    artifact: Artifact, target: str = "local", progress: Progress | None = None, *, verify: bool = True, activate: bool = True, ask: Ask | None = None
) -> RemoteSession:
    """Put a Linux artifact on `target`, prove it there and make it the current one: a running session.

    target: "local" (this computer; `local?python=PATH&engine=tflite-runtime` for another interpreter or engine), or `ssh://user@host/path`.
    activate: False for a trial: the device goes on with what it has, and the artifact is taken away when the session is closed.
    ask: called for a passphrase or password when no key is accepted.
    The device's `current` changes only after the proof; when that fails it keeps the artifact before.
    Raises `VerificationFailed`, `LinkError`, `DeviceError`, `VersionMismatch`, `UsageError`.
    """
    tell = progress or (lambda _: None)
    if target == "local" or target.startswith("local?"):
        return _proved(_open_local(artifact, target, tell), verify, tell)
    if target.startswith("ssh://"):
        return _open_ssh(artifact, target, tell, verify, activate, ask)
    raise UsageError(f"{target!r} is no Linux device; give local or ssh://user@host/path")


def _proved(session: RemoteSession, verify: bool, tell: Progress) -> RemoteSession:
    try:
        session.client.call("info")  # also without a proof: a runner that does not start must be told now
        if verify:
            tell("verifying")
            session.verify(progress=tell).check()
    except BaseException:
        session.close()
        raise
    return session


def _open_local(artifact: Artifact, target: str, tell: Progress) -> RemoteSession:
    query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
    unknown = [key for key in query if key not in LOCAL_QUERY]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not known after local?; there are {', '.join(LOCAL_QUERY)}")
    tell("starting the runner on this computer")
    folder = Path(tempfile.mkdtemp(prefix="embarq-"))
    try:
        write_bundle(folder / "artifact", artifact.manifest, artifact.files)
        runner = folder / "embarq-run.pyz"
        runner.write_bytes(runner_zipapp())
        engine = ["--engine", query["engine"]] if "engine" in query else []
        python = query.get("python", sys.executable)
        pipe = LocalPipe([python, str(runner), "serve", str(folder / "artifact"), *engine])
        release = lambda: shutil.rmtree(folder, ignore_errors=True)  # noqa: E731
        return RemoteSession(artifact, RunnerClient(pipe), release, start_training=lambda: _train_locally(python, folder, artifact))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _train_locally(python: str, folder: Path, artifact: Artifact) -> LocalPipe:
    """The training process here. Its checkpoint outlives the session's folder, so that a run that was stopped can go on."""
    from platformdirs import user_cache_path

    trainer = folder / "embarq-train.pyz"
    trainer.write_bytes(training_zipapp())
    checkpoint = user_cache_path("embarq") / "training" / f"{hashlib.sha256(canonical_json(artifact.manifest)).hexdigest()[:16]}.ckpt"
    return LocalPipe([python, str(trainer), str(folder / "artifact"), str(checkpoint)])


def _open_ssh(artifact: Artifact, target: str, tell: Progress, verify: bool, activate: bool, ask: Ask | None) -> RemoteSession:
    from firmware_bridge.ssh import connect, parse_target
    from firmware_bridge.ssh_slot import open_slot

    address = parse_target(target)
    tell(f"connecting to {address.host}")
    host = connect(address, ask)
    try:
        slot = open_slot(host, address, artifact.name, package_of(artifact))
        slot.stage(tell)
        try:
            made = RemoteSession(artifact, RunnerClient(slot.serve()), lambda: _leave(slot, activate), slot, lambda: slot.train(training_zipapp()))
            session = _proved(made, verify, tell)
        except LinkError:
            raise  # a lost connection says nothing about the artifact: it stays, unproved, for the next try
        except (VerificationFailed, DeviceError) as error:
            raise _rejected(error, address, ask, slot) from error
        if activate:
            slot.activate()
        return session
    except BaseException:
        host.close()
        raise


def _leave(slot: Slot, keep: bool) -> None:
    """Hang up; after a trial, take the artifact away first, where the connection still stands."""
    try:
        if not keep and slot.host.alive():
            slot.discard()
    finally:
        slot.host.close()


def _rejected(error: EmbarqError, address: Any, ask: Ask | None, slot: Slot) -> EmbarqError:
    """The same error with what the device is left with; the failed version is taken away, over a new connection when the old one is gone."""
    from dataclasses import replace

    from firmware_bridge.ssh import connect

    try:
        with connect(address, ask) as host:
            left = replace(slot, host=host).reject()
    except EmbarqError:
        left = f"{slot.folder} still has what it had before"
    return type(error)(f"{error}; {left}")


def package_of(artifact: Artifact) -> Package:
    """The artifact as one tar, the same bytes every time: no dates, no owner."""
    from firmware_bridge.ssh_slot import Package

    manifest = canonical_json(artifact.manifest)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in sorted({**artifact.files, MANIFEST: manifest}.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Package(manifest, stream.getvalue(), len(manifest) + sum(map(len, artifact.files.values())), runner_zipapp())
