"""Training on a Linux device from the host: samples go there, losses come back while they fall, weights come back at the end.

The process on the device is `sdk.training.serve`, a sibling of the runner: it needs torch, numpy and Python 3.11, and brings our
own code with it. When the link breaks it ends at its last checkpoint, and `resume=True` goes on from there.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.runner import RunnerClient
from sdk.errors import DataError, UsageError
from sdk.runner.arrays import pack, unpack
from sdk.train_result import TrainResult, TrainStep

if TYPE_CHECKING:
    from sdk.artifact import Artifact

Progress = Callable[[str], None]
#: Bytes of samples sent in one message.
PIECE_BYTES = 8 << 20
POLL_S = 0.5


@dataclass(frozen=True)
class Samples:
    """Inputs [n, ...] in the model's own type and labels int64 [n], those to learn from and those held back."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


def check_samples(x: Any, y: Any, shape: tuple[int, ...], dtype: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels as training takes them. `shape`: of one sample, without the batch.

    Raises `DataError`, one sentence: no samples, another shape or type, values that are not finite, labels that no class has.
    """
    inputs, labels = np.asarray(x), np.asarray(y)
    if len(inputs) == 0 or inputs.ndim == 0:
        raise DataError(f"there are no samples to learn from; give inputs [n, {', '.join(map(str, shape))}] and labels [n]")
    if inputs.shape[1:] != shape:
        raise DataError(f"samples have shape {list(inputs.shape[1:])} and the model takes {list(shape)}; give inputs [n, {', '.join(map(str, shape))}]")
    if labels.shape != (len(inputs),) or labels.dtype.kind not in "iu":
        raise DataError(f"labels are {labels.dtype}{list(labels.shape)} for {len(inputs)} samples; give one whole number for each")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)]
        raise DataError(f"label {int(wrong[0])} is none of the model's {classes} classes; labels count from 0 to {classes - 1}")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        row = int(np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(1))[0])
        raise DataError(f"sample {row} holds NaN or infinity; leave it out")
    return np.ascontiguousarray(inputs, dtype), labels.astype(np.int64)


def hold_back(x: np.ndarray, y: np.ndarray, share: float, seed: int) -> Samples:
    """A share of the samples of every class set aside, the same ones for the same seed. Raises `UsageError` for a share outside [0, 1)."""
    if not 0 <= share < 1:
        raise UsageError(f"{share} of the samples cannot be held back; give a share from 0 to below 1")
    generator = np.random.default_rng(seed)
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        held[rows[: round(share * len(rows))]] = True
    if share and not held.any():
        raise DataError(f"{len(y)} samples are too few to hold {share:.0%} of them back; give more, or hold none back")
    return Samples(x[~held], y[~held], x[held], y[held])


@dataclass
class TrainingClient:
    """The training process on a device. Close it when done: its memory is the device's."""

    client: RunnerClient
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.info = dict(self.client.call("info"))

    def close(self) -> None:
        """End the process there."""
        self.client.close()

    def send(self, samples: Samples, progress: Progress | None = None) -> None:
        """Put the samples there, a piece at a time."""
        parts = {"x": samples.x, "y": samples.y, "held_x": samples.held_x, "held_y": samples.held_y}
        for part, array in parts.items():
            for first, rows in _pieces(array):
                self.client.call("put", {"part": part, "first": first, "rows": len(array), "array": pack(rows)})
                if progress:
                    progress(f"sending {part}: {first + len(rows):,} of {len(array):,}")

    def train(self, options: Mapping[str, Any], on_step: Callable[[TrainStep], None] | None = None) -> TrainResult:
        """Train until it is done; Ctrl-C stops it after the update that is running and raises KeyboardInterrupt."""
        self.client.call("start", options)
        began = time.monotonic()
        with _interrupts() as asked:
            for step in self._steps(asked):
                if on_step:
                    on_step(step)
        if asked.is_set():
            raise KeyboardInterrupt
        found = self.client.call("result")
        return TrainResult(**{**found, "losses": tuple(found["losses"])}, seconds=time.monotonic() - began)

    def _steps(self, asked: threading.Event) -> Iterator[TrainStep]:
        """Every update as the device tells of it, until it ends or is asked to; a failure there is raised here as what it is."""
        running = True
        while running:
            if asked.is_set():
                self.client.call("stop")
            answer = self.client.call("poll", {"wait_s": POLL_S})
            running = bool(answer["running"])
            yield from (TrainStep(**event) for event in answer["events"])

    def stop(self) -> None:
        """End training after the update that is running; what was learned stays there and `weights` gives it."""
        self.client.call("stop")

    def forget(self) -> None:
        """Take the device's checkpoint away."""
        self.client.call("forget")

    def weights(self) -> dict[str, np.ndarray]:
        """The model's values by the names of its source, merged: as if no layer had been changed for training."""
        names = self.client.call("weights")["names"]
        return {name: unpack(self.client.call("weight", {"name": name})["array"]) for name in names}


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Ctrl-C as an event inside the block: an exception in the midst of a message would leave the other side half-answered."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda _number, _frame: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _pieces(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of about PIECE_BYTES; one empty piece for an empty array."""
    rows = max(1, PIECE_BYTES // max(1, array.nbytes // max(1, len(array))))
    for first in range(0, max(1, len(array)), rows):
        yield first, array[first : first + rows]


def train(
    client: TrainingClient, x: Any, y: Any, *, epochs: int = 1, learning_rate: float | None = None, held_out: float = 0.2, patience: int = 0,
    resume: bool = False, seed: int = 0, on_step: Callable[[TrainStep], None] | None = None, progress: Progress | None = None, decay: bool = False,
) -> TrainResult:  # fmt: skip
    """Check the samples, hold some back, send them, train: see `RemoteSession.train`."""
    if epochs < 1 or patience < 0:
        raise UsageError(f"{epochs} epochs with a patience of {patience} are not possible; give 1 epoch or more and a patience of 0 or more")
    if learning_rate is not None and not learning_rate > 0:
        raise UsageError(f"a learning rate of {learning_rate} is not possible; give one above 0")
    info = client.info
    inputs, labels = check_samples(x, y, tuple(info["input_shape"]), str(info["input_dtype"]), int(info["classes"]))
    client.send(hold_back(inputs, labels, held_out, seed), progress)
    options = {"epochs": epochs, "learning_rate": learning_rate, "decay": decay, "patience": patience, "resume": resume, "seed": seed}
    return client.train(options, on_step)


def trained_artifact(artifact: Artifact, weights: Mapping[str, np.ndarray], progress: Progress = lambda _: None) -> Artifact:
    """`artifact` with `weights` in its program; the golden inputs stay, their outputs are what the new program computes here."""
    from dataclasses import replace

    from sdk.bundle import file_entry
    from sdk.golden import npy_bytes
    from sdk.training.payload import same_calibration, with_weights
    from sdk.training.settings import CALIBRATION
    from sdk.training_artifact import outputs_of

    progress("writing the program")
    entry = str(artifact.manifest["entry"])
    content = with_weights(artifact.files[entry], weights)
    progress("golden vectors")
    files = {**artifact.files, entry: content}
    bases = f"payload/{CALIBRATION}"
    if bases in files:
        files[bases] = same_calibration(files[bases], content)
    for v, outputs in enumerate(outputs_of(content, artifact.golden.inputs)):
        files.update({f"golden/{v}_output_{i}.npy": npy_bytes(array) for i, array in enumerate(outputs)})
    manifest = {**artifact.manifest, "files": {name: file_entry(data) for name, data in sorted(files.items())}}
    return replace(artifact, manifest=manifest, files=files)
