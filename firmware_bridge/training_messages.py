"""The messages of the training group (65); PROTOCOL.md says what each means. As `messages`, import it only where messages are exchanged."""

from __future__ import annotations

from enum import IntEnum, unique

from pydantic import ConfigDict
from smp import error, message

GROUP = 65
PROTOCOL = 1


@unique
class TrainingCommand(IntEnum):
    """Numbers of the training group's commands; the same as in device/bridge_train.c."""

    INFO = 0
    START = 1
    STEP = 2
    READ = 3
    WRITE = 4
    COMMIT = 5
    FORGET = 6


@unique
class TrainingError(IntEnum):
    """Why the board refused to train; the same as embarq_training_error in device/embarq_bridge.h."""

    OK = 0
    BAD_REQUEST = 1
    NO_VARIABLE = 2
    BAD_OFFSET = 3
    NOT_READY = 4
    BAD_STEP = 5
    BAD_LABEL = 6
    BAD_LENGTH = 7
    BAD_ABI = 8
    NOT_STARTED = 9
    NO_FLASH = 10
    FLASH_FAILED = 11


class TrainingErrorV1(error.ErrorV1):
    """{"rc"}: a code of SMP's own."""

    _GROUP_ID = GROUP


class TrainingErrorV2(error.ErrorV2[TrainingError]):
    """{"err": {"group", "rc"}}: a code of the training group."""

    _GROUP_ID = GROUP


class _TrainingErrors:
    _ErrorV1 = TrainingErrorV1
    _ErrorV2 = TrainingErrorV2


class TrainInfoResponse(message.ReadResponse):
    """What the board trains, and how far it has come. Later firmware may add keys: these are checked by `proto`."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.INFO
    proto: int
    steps: int
    forward: int
    vars: int
    size: int
    classes: int
    flash: int
    seq: int
    step: int
    changed: int
    hyper: bytes


class TrainInfo(message.ReadRequest, _TrainingErrors):
    """Ask what the board trains."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.INFO
    _Response = TrainInfoResponse


class KeptResponse(message.WriteResponse):
    """Sequence number of the newest copy in flash, 0 for none, and whether the values have changed since."""

    _GROUP_ID = GROUP
    seq: int
    changed: int


class TrainStartResponse(KeptResponse):
    """Ready for step 1."""

    _COMMAND_ID = TrainingCommand.START


class TrainStart(message.WriteRequest, _TrainingErrors):
    """Begin: values as they are (`base` 0), the newest copy in flash (1) or those of the firmware (2); four floats of hyper-parameters."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.START
    _Response = TrainStartResponse
    base: int
    hyper: bytes


class TrainStepResponse(message.WriteResponse):
    """Loss, the class found before the update, and the step's ticks."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.STEP
    step: int
    loss: float
    pred: int
    ticks: int


class TrainStep(message.WriteRequest, _TrainingErrors):
    """Step number `step` on the inputs written, or on `data`: all inputs but the label, one after the other."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.STEP
    _Response = TrainStepResponse
    step: int
    label: int
    data: bytes | None = None


class VariableResponse(message.ReadResponse):
    """Name, size and CRC-32 of a variable."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.READ
    name: str
    size: int
    crc: int


class Variable(message.ReadRequest, _TrainingErrors):
    """Ask for variable `i`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.READ
    _Response = VariableResponse
    i: int


class VariablePieceResponse(message.ReadResponse):
    """Bytes from `off` on, perhaps fewer than asked for."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.READ
    off: int
    data: bytes


class ReadVariable(message.ReadRequest, _TrainingErrors):
    """Ask for bytes of variable `i`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.READ
    _Response = VariablePieceResponse
    i: int
    off: int
    len: int


class WriteVariableResponse(message.WriteResponse):
    """Where the next bytes go."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.WRITE
    off: int


class WriteVariable(message.WriteRequest, _TrainingErrors):
    """Bytes of variable `i` from `off`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.WRITE
    _Response = WriteVariableResponse
    i: int
    off: int
    data: bytes


class CommitResponse(KeptResponse):
    """The copy that now counts."""

    _COMMAND_ID = TrainingCommand.COMMIT


class Commit(message.WriteRequest, _TrainingErrors):
    """Copy the values to flash."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.COMMIT
    _Response = CommitResponse


class ForgetResponse(KeptResponse):
    """What is left."""

    _COMMAND_ID = TrainingCommand.FORGET


class Forget(message.WriteRequest, _TrainingErrors):
    """Back to the newest copy in flash; with `all` the copies are erased, too, and it is back to the firmware's values."""

    _GROUP_ID = GROUP
    _COMMAND_ID = TrainingCommand.FORGET
    _Response = ForgetResponse
    all: bool | None = None
