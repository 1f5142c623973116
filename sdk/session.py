"""A model on a board: run it, profile it, prove it. `BoardSession` moves the bytes; here they have shapes and meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.links import Link, open_link
from firmware_bridge.session import BoardSession
from sdk.errors import UsageError, VerificationFailed
from sdk.golden import Golden, check_input, dequantise_array
from sdk.graph.ir import Tensor

if TYPE_CHECKING:
    from firmware_bridge.emulator import EmulatedBoard
    from firmware_bridge.training import Kept
    from sdk.artifact import Artifact
    from sdk.train_result import TrainResult

Progress = Callable[[str], None]
NUMPY = {"float32": "<f4", "int8": "i1", "uint8": "u1", "int16": "<i2", "int32": "<i4", "int64": "<i8", "bool": "?"}


@dataclass(frozen=True)
class ProfileRow:
    """One layer: executed instructions and estimated cycles (emulated board), or ticks of the board's counter."""

    name: str
    op: str
    kernel: str
    ticks: int
    instructions: int | None = None
    cycles_est: int | None = None


@dataclass(frozen=True)
class Profile:
    """Cost of one inference by layer. `ticks` run at `ticks_hz` (0: unknown); on the emulated board a tick is an instruction."""

    rows: tuple[ProfileRow, ...]
    ticks_hz: int
    emulated: bool

    @property
    def instructions(self) -> int | None:
        """Executed instructions of one inference; None on a real board."""
        return sum(row.instructions or 0 for row in self.rows) if self.emulated else None

    @property
    def cycles_est(self) -> int | None:
        """Estimated cycles of one inference; None on a real board, whose ticks are cycles already."""
        return sum(row.cycles_est or 0 for row in self.rows) if self.emulated else None

    @property
    def ticks(self) -> int:
        """Ticks of one inference."""
        return sum(row.ticks for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [vars(row) for row in self.rows]
        return {
            "instructions": self.instructions, "cycles_est": self.cycles_est, "ticks": self.ticks, "ticks_hz": self.ticks_hz,
            "emulated": self.emulated, "steps": rows,
        }  # fmt: skip

    def __str__(self) -> str:
        total = max(self.instructions or self.ticks, 1)
        unit = "instructions" if self.emulated else "ticks"
        width = max([len(row.name) for row in self.rows] + [5])
        width = min(width, 40)
        lines = [f"{'layer':<{width}}  {'op':<18} {unit:>14}  share"]
        for row in self.rows:
            count = row.instructions if row.instructions is not None else row.ticks
            bar = "█" * round(20 * count / total)
            lines.append(f"{row.name[-width:]:<{width}}  {row.op:<18} {count:>14,}  {100 * count / total:4.1f} % {bar}")
        lines.append(f"{'total':<{width}}  {'':<18} {total:>14,}")
        return "\n".join(lines)


@dataclass(frozen=True)
class VerifyReport:
    """What a comparison with the golden vectors found. `first_difference` names a layer, or is None when all agreed."""

    vectors: int
    bytes_compared: int
    bytes_equal: int
    tolerance: float
    largest_difference: float
    first_difference: str | None = None
    stack_used_bytes: int = 0
    details: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True when every vector agreed within the tolerance."""
        return self.first_difference is None

    def check(self) -> VerifyReport:
        """This report; raises `VerificationFailed` when it is not `ok`."""
        if not self.ok:
            raise VerificationFailed(f"the board computes something else than the golden vectors: {self.first_difference}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "ok": self.ok, "details": list(self.details)}

    def __str__(self) -> str:
        if not self.ok:
            return f"DIFFERENT: {self.first_difference}"
        how = "every byte equal" if not self.tolerance else f"largest relative difference {self.largest_difference:.1e}, allowed {self.tolerance:.0e}"
        return f"proved: {self.vectors} vectors, {self.bytes_compared:,} output bytes, {how}; stack used {self.stack_used_bytes:,} bytes"


class Session:
    """A running model. Close it, or use it as a context manager."""

    def __init__(self, artifact: Artifact, board: BoardSession, emulated: EmulatedBoard | None = None) -> None:
        self.artifact, self.board, self.emulated = artifact, board, emulated
        self.inputs, self.outputs = artifact.tensors("inputs"), artifact.tensors("outputs")
        self._check_identity()

    def _check_identity(self) -> None:
        info, wanted = self.board.info(), self.artifact.manifest.get("plan_id")
        if info.id != wanted:
            raise VerificationFailed(
                f"the firmware on {self.board.name} runs {info.name!r} from another plan ({info.id[:12]}) than this artifact ({str(wanted)[:12]}); "
                "write this artifact's firmware/ to the board first"
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the link back."""
        self.board.close()

    def run(self, *inputs: Any) -> Any:
        """One inference on the board.

        inputs: one array per model input, in the model's own type; or real values, which are quantised here, and then the
        result comes back as real values too. Returns one array, or a tuple when the model has several outputs.
        """
        if len(inputs) != len(self.inputs):
            raise UsageError(f"{self.artifact.name} takes {len(self.inputs)} inputs and was given {len(inputs)}")
        arrays = [check_input(tensor, value) for tensor, value in zip(self.inputs, inputs, strict=True)]
        real = any(np.asarray(v).dtype.kind == "f" and t.dtype != "float32" for t, v in zip(self.inputs, inputs, strict=True))
        outputs = [self._real(t, a) if real else a for t, a in zip(self.outputs, self._run(arrays), strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _real(self, tensor: Tensor, array: np.ndarray) -> np.ndarray:
        return dequantise_array(tensor, array) if tensor.quant is not None else array

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        result = self.board.run(*(array.tobytes() for array in arrays))
        return [_array(t, data) for t, data in zip(self.outputs, result.outputs, strict=True)]

    def run_each(self, samples: Any, progress: Callable[[int, int], None] | None = None) -> Iterator[Any]:
        """`run` on every sample of an array [n, ...] or a sequence, in order. progress: called with (done, of how many)."""
        for index in range(len(samples)):
            yield self.run(samples[index])
            if progress:
                progress(index + 1, len(samples))

    def train(self, stream: Any, labels: Any = None, **options: Any) -> TrainResult:
        """Learn on the board, one sample an update; inference goes on with the values as they become.

        stream: (input, label) pairs, or inputs [n, ...] with `labels` [n]; inputs as `run` takes them. Each sample is checked before it is sent.
        options: epochs (1), learning_rate and momentum (the plan's), decay (True: each epoch at a lower rate, along half a cosine), on_step
        (called with every update, and once more with the held-out accuracy after an epoch), early_stop (called likewise; True ends training),
        held_out (0: the share judged by, never learned from), patience (0: all epochs; else epochs without a better held-out accuracy before it
        stops and the best values come back), seed, commit (True: copy the values to the board's flash at the end, where the board can write it).
        Ctrl-C loses nothing: the values are the board's, `commit` keeps them. Training goes on from them, too; `forget` takes them back.
        Raises `DataError` for a sample, `UsageError` for an option, `TrainingDiverged` for a loss that is not finite: the board then has
        the values it had committed last, or those of its firmware.
        """
        from sdk.training_session import train

        return train(self, stream, labels, **options)

    def pull(self, everything: bool = False) -> dict[str, np.ndarray]:
        """What the board has learned: name -> values as they lie there, a convolution's weights as [O, kh, kw, I], an adapter's P as
        [O, kh, kw, K]. Names are the plan's: of the model's own parameters where it has them. With `everything` the optimiser's own, too."""
        from sdk.training_values import pull

        return pull(self, everything)

    def push(self, values: Mapping[str, Any]) -> None:
        """Put values into the board's variables, such as `pull` gave them, on this or on another board. Raises `DataError`."""
        from sdk.training_values import push

        push(self, values)

    def commit(self) -> Kept:
        """Copy the values to the board's flash: they outlive a reset, and a power cut meanwhile leaves the copy before. Raises `Refused`."""
        return self.board.commit()

    def forget(self, everything: bool = False) -> Kept:
        """Back to the values committed last, or the firmware's; with `everything` to the firmware's, the copies in flash erased."""
        from sdk.training_values import forget

        return forget(self, everything)

    def trained_artifact(self, progress: Progress | None = None) -> Artifact:
        """This artifact with what the board has learned: its firmware untouched, the values beside it. Opened on a board that has learned
        nothing yet, as an emulated one, it brings them there; a board that has keeps its own."""
        from sdk.training_values import trained_artifact

        return trained_artifact(self, progress)

    def profile(self, *inputs: Any) -> Profile:
        """Cost of one inference by layer; random inputs unless given."""
        arrays = [check_input(t, v) for t, v in zip(self.inputs, inputs, strict=True)] if inputs else list(self.artifact.golden.inputs[0])
        self.board.write_inputs(*(a.tobytes() for a in arrays))
        if self.emulated is not None:
            self.emulated.clear_counts()
        ticks = self.board.profile(*(a.tobytes() for a in arrays))
        costs = self.emulated.steps() if self.emulated is not None else []
        rows = []
        for index, step in enumerate(self.artifact.manifest["steps"]):
            cost = costs[index] if index < len(costs) else None
            figures = (cost.instructions, cost.cycles) if cost else (None, None)
            rows.append(ProfileRow(step["name"], step["op"], step["kernel"], ticks[index], *figures))
        return Profile(tuple(rows), self.board.info().ticks_hz, self.emulated is not None)

    def verify(self, golden: Golden | None = None, progress: Progress | None = None) -> VerifyReport:
        """Run the golden vectors on the board and compare: integer models layer by layer, so that a difference which the last
        layers swallow is found too and the first layer that differs is named; float models by their outputs. A model that learns
        takes its golden steps, too, from the firmware's values, and has its committed ones again afterwards."""
        if "training" not in self.artifact.manifest:
            return self._verify(golden, progress)
        from sdk.training.mcu.golden import proved
        from sdk.training_values import bring, take_back

        take_back(self)
        report = proved(self, lambda: self._verify(golden, progress), progress)
        bring(self)
        return report

    def _verify(self, golden: Golden | None, progress: Progress | None) -> VerifyReport:
        golden = golden or self.artifact.golden
        tolerance = float(self.artifact.manifest["golden"]["tolerance"])
        compared = equal = 0
        largest = 0.0
        for number in range(len(golden)):
            if progress:
                progress(f"vector {number + 1} of {len(golden)}")
            found, layer = self._prove(golden, number, tolerance)
            if layer is not None:
                return VerifyReport(number + 1, compared, equal, tolerance, largest, f"{layer}, vector {number}")
            for tensor, wanted, got in zip(self.outputs, golden.outputs[number], found, strict=True):
                compared += wanted.nbytes
                equal += int(np.count_nonzero(wanted.reshape(-1).view(np.uint8) == got.reshape(-1).view(np.uint8)))
                difference = _difference(wanted, got)
                largest = max(largest, difference)
                if difference > tolerance or not np.isfinite(difference):
                    return VerifyReport(number + 1, compared, equal, tolerance, largest, f"output {tensor.name}, vector {number}")
        stack = self.board.memory().used_bytes
        return VerifyReport(len(golden), compared, equal, tolerance, largest, None, stack)

    def _prove(self, golden: Golden, number: int, tolerance: float) -> tuple[list[np.ndarray], str | None]:
        """The outputs of one vector and, for integer models, the first layer whose output's CRC-32 is not the interpreter's."""
        vector = golden.inputs[number]
        # float sums differ in their last bits, and so would every CRC; a model of reshapes only has no step to stop at
        if tolerance or not self.artifact.manifest["steps"]:
            return self._run(vector), None
        crcs = self.board.step_crcs(*(a.tobytes() for a in vector))
        for index, (wanted, got) in enumerate(zip(golden.crcs[number], crcs, strict=True)):
            if wanted != got:
                step = self.artifact.manifest["steps"][index]
                return [], f"the first layer that differs is {step['name']} ({step['op']}, {step['kernel']}), step {index}"
        return [_array(t, data) for t, data in zip(self.outputs, self.board.read_outputs(), strict=True)], None


def _array(tensor: Tensor, data: bytes) -> np.ndarray:
    return np.frombuffer(data, NUMPY[tensor.dtype]).astype(tensor.dtype, copy=False).reshape(tensor.shape)


def _difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """Largest difference relative to the largest wanted value; integers: in the same measure, so any difference is above 0."""
    if wanted.dtype.kind != "f":
        return float(np.count_nonzero(wanted != got))
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(wanted - got), initial=0.0) / max(float(np.max(np.abs(wanted), initial=0.0)), 1e-6))



def open_session(artifact: Artifact, target: str) -> Session:
    """The artifact on `target`: "emulator" starts the plan's device with its firmware; anything else is a link to a board that runs it.
    Values that were trained come along (`Session.trained_artifact`)."""
    from sdk.training_values import bring

    session = _open(artifact, target)
    try:
        bring(session)
    except BaseException:
        session.close()
        raise
    return session


def _open(artifact: Artifact, target: str) -> Session:
    if target == "emulator":
        from firmware_bridge.emulator import EmulatedBoard, EmulatorLink

        names = [step["name"] for step in artifact.manifest["steps"]]
        board = EmulatedBoard(artifact.device, artifact.elf(), step_names=names)
        return Session(artifact, BoardSession(EmulatorLink(board)), board)
    link: Link = open_link(target)
    return Session(artifact, BoardSession(link))
