"""What a session asks of a board that learns: steps on samples, its variables, copies in flash. Bytes and numbers, not arrays.

    with BoardSession(open_link("/dev/ttyACM0")) as board:
        board.train_start(0.01)
        answer = board.train_step(1, 3, image)      # step 1, label 3: answer.loss, answer.predicted
        board.commit()                              # kept over a reset
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from firmware_bridge.smp import Refused, SmpClient
from sdk.errors import DataError, LinkError, UsageError, VersionMismatch

if TYPE_CHECKING:
    from firmware_bridge.session import ModelInfo

PROTOCOL = 1  # the training group's messages (EMBARQ_TRAINING_PROTOCOL in device/embarq_bridge.h) that this host speaks
BASES = ("present", "committed", "firmware")  # values to start from, numbered as on the wire
_NOT_SUPPORTED = 8  # SMP's own code for a group that is not there


@dataclass(frozen=True)
class TrainingInfo:
    """A board that learns. `step_count`: kernels of a training step, the first `forward_count` of which are the inference.

    variable_bytes: of all variables together. can_commit: flash is set aside that the board can write. sequence: of the newest copy there,
    0 for none. step: the last one done. changed: the values are no longer those of that copy. learning_rate, momentum: None before a start.
    """

    step_count: int
    forward_count: int
    variable_count: int
    variable_bytes: int
    classes: int
    can_commit: bool
    sequence: int
    step: int
    changed: bool
    learning_rate: float | None
    momentum: float | None


@dataclass(frozen=True)
class TrainAnswer:
    """One step: the loss and the class found before its update, and its ticks."""

    step: int
    loss: float
    predicted: int
    ticks: int


@dataclass(frozen=True)
class VariableInfo:
    """A variable on the board; `crc` is `zlib.crc32` of its bytes as they are."""

    index: int
    name: str
    size_bytes: int
    crc: int


@dataclass(frozen=True)
class Kept:
    """The newest copy in flash, 0 for none, and whether the values have changed since it was made."""

    sequence: int
    changed: bool


class TrainingCommands:
    """The training part of `BoardSession`. Every request may come twice on the board without harm."""

    name: str
    run_timeout_s: float
    _client: SmpClient

    if TYPE_CHECKING:  # what `BoardSession` brings

        def info(self) -> ModelInfo:
            """The model in the firmware."""

        def write_inputs(self, *inputs: bytes) -> None:
            """Send all inputs."""

        def _check(self, inputs: tuple[bytes, ...]) -> None: ...

        def _room(self, request: Any) -> int: ...

        def _pieces(self, size: int, ask: Callable[[int, int], Any]) -> bytes: ...

    def train_info(self) -> TrainingInfo:
        """What the board trains and how far it is. Raises `UsageError` when its model does not learn, `VersionMismatch` for another protocol."""
        from firmware_bridge.training_messages import TrainInfo

        try:
            answer = self._client.request(TrainInfo())
        except Refused as error:
            if error.group is None and error.code == _NOT_SUPPORTED:
                raise UsageError(f"the firmware on {self.name} does not learn; compile the model with training=sdk.Training(...) and flash it") from error
            raise
        if answer.proto != PROTOCOL:
            raise VersionMismatch(
                f"the firmware on {self.name} trains by protocol {answer.proto}, this embarq by {PROTOCOL}; flash it again or update embarq"
            )
        rate, momentum = struct.unpack("<2f", answer.hyper[:8]) if len(answer.hyper) == 16 else (None, None)
        return TrainingInfo(
            answer.steps, answer.forward, answer.vars, answer.size, answer.classes, bool(answer.flash), answer.seq, answer.step,
            bool(answer.changed), rate, momentum,
        )  # fmt: skip

    def train_start(self, learning_rate: float, momentum: float = 0.0, base: Literal["present", "committed", "firmware"] = "present") -> Kept:
        """Ready for step 1, from the values as they are, the newest copy in flash (or the firmware's, without one), or the firmware's."""
        from firmware_bridge.training_messages import TrainStart

        if base not in BASES:
            raise UsageError(f"training cannot start from {base!r}; choose one of {', '.join(BASES)}")
        answer = self._client.request(TrainStart(base=BASES.index(base), hyper=struct.pack("<4f", learning_rate, momentum, 0.0, 0.0)))
        return Kept(answer.seq, bool(answer.changed))

    def train_step(self, number: int, label: int, *inputs: bytes) -> TrainAnswer:
        """Learn from one sample: its inputs' bytes and its class. Steps count from 1 after a start; the same number again is done once."""
        from firmware_bridge.training_messages import TrainStep

        self._check(inputs)
        data: bytes | None = b"".join(inputs)
        if len(data or b"") > self._room(TrainStep(step=0xFFFFFFFF, label=0xFFFFFFFF, data=b"")):
            self.write_inputs(*inputs)
            data = None
        request = TrainStep(step=number, label=label) if data is None else TrainStep(step=number, label=label, data=data)
        answer = self._client.request(request, self.run_timeout_s)
        if answer.step != number:
            raise LinkError(f"{self.name} told of step {answer.step} when step {number} was asked for; start training again")
        return TrainAnswer(answer.step, answer.loss, answer.pred, answer.ticks)

    def variables(self) -> tuple[VariableInfo, ...]:
        """Every variable, in the firmware's order."""
        return tuple(self.variable(i) for i in range(self.train_info().variable_count))

    def variable(self, index: int) -> VariableInfo:
        """Name, size and CRC-32 of one variable."""
        from firmware_bridge.training_messages import Variable

        answer = self._client.request(Variable(i=index))
        return VariableInfo(index, answer.name, answer.size, answer.crc)

    def read_variable(self, index: int) -> bytes:
        """The bytes of a variable; their CRC-32 is checked."""
        from firmware_bridge.training_messages import ReadVariable

        info = self.variable(index)
        data = self._pieces(info.size_bytes, lambda off, n: ReadVariable(i=index, off=off, len=n))
        if zlib.crc32(data) != info.crc:
            raise LinkError(f"variable {info.name} arrived from {self.name} with another CRC-32 than it has there; read it again while nothing trains")
        return data

    def write_variable(self, index: int, data: bytes) -> None:
        """Put bytes into a variable, all of it; the board's CRC-32 of them is checked."""
        from firmware_bridge.training_messages import WriteVariable

        info = self.variable(index)
        if len(data) != info.size_bytes:
            raise DataError(f"variable {info.name} was given {len(data)} bytes and has {info.size_bytes}; give exactly these")
        room = self._room(WriteVariable(i=0xFFFF, off=0xFFFFFFFF, data=b""))
        for at in range(0, len(data), room):
            self._client.request(WriteVariable(i=index, off=at, data=data[at : at + room]))
        if self.variable(index).crc != zlib.crc32(data):
            raise LinkError(f"variable {info.name} did not arrive on {self.name} as it was sent; write it again")

    def commit(self) -> Kept:
        """Copy the values to flash, where they outlive a reset; the copy before stays until this one is whole. Nothing new: nothing is written."""
        from firmware_bridge.training_messages import Commit

        answer = self._client.request(Commit(), self.run_timeout_s)
        return Kept(answer.seq, bool(answer.changed))

    def forget(self, everything: bool = False) -> Kept:
        """Back to the newest copy in flash, or the firmware's values; with `everything` the copies are erased first."""
        from firmware_bridge.training_messages import Forget

        answer = self._client.request(Forget(all=True) if everything else Forget(), self.run_timeout_s)
        return Kept(answer.seq, bool(answer.changed))
