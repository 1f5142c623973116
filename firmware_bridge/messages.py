"""The messages a session uses: three of the OS group, and embarq's own group (64); PROTOCOL.md says what each means.

A request class names its answer and its errors the way `smpclient` wants them, so that any `smpclient` can send them.
Import this module only where messages are exchanged: it needs the `bridge` extra.
"""

from __future__ import annotations

from enum import IntEnum, unique

from pydantic import ConfigDict
from smp import error, message, os_management

GROUP = 64
PROTOCOL = 1


@unique
class Command(IntEnum):
    """Numbers of our commands; the same as in device/bridge_model.c."""

    INFO = 0
    TENSOR = 1
    INPUT = 2
    RUN = 3
    STEP = 4
    OUTPUT = 5
    MEMORY = 6
    SELF_TEST = 7
    LAYER = 8
    FAULT = 9


@unique
class ModelError(IntEnum):
    """Why the board refused; the same as embarq_bridge_error in device/embarq_bridge.h."""

    OK = 0
    BAD_REQUEST = 1
    NO_SUCH_TENSOR = 2
    BAD_OFFSET = 3
    NOT_READY = 4
    NO_RESULT = 5
    BAD_LENGTH = 6
    BAD_STEP = 7
    BAD_ABI = 8
    UNSAVED = 9


class _OsErrors:
    _ErrorV1 = os_management.OSManagementErrorV1
    _ErrorV2 = os_management.OSManagementErrorV2


class Echo(os_management.EchoWriteRequest, _OsErrors):
    """Ask for `d` back."""

    _Response = os_management.EchoWriteResponse


class Reset(os_management.ResetWriteRequest, _OsErrors):
    """Ask the board to start anew, once it has answered."""

    _Response = os_management.ResetWriteResponse


class Parameters(os_management.MCUMgrParametersReadRequest, _OsErrors):
    """Ask for the size of the board's message buffer."""

    _Response = os_management.MCUMgrParametersReadResponse


class ErrorV1(error.ErrorV1):
    """{"rc"}: a code of SMP's own."""

    _GROUP_ID = GROUP


class ErrorV2(error.ErrorV2[ModelError]):
    """{"err": {"group", "rc"}}: a code of our group."""

    _GROUP_ID = GROUP


class _Errors:
    _ErrorV1 = ErrorV1
    _ErrorV2 = ErrorV2


class InfoResponse(message.ReadResponse):
    """What the board runs. Later firmware may add keys: these are checked by `proto`."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    _GROUP_ID = GROUP
    _COMMAND_ID = Command.INFO
    proto: int
    abi: int
    inputs: int
    outputs: int
    steps: int
    page: int
    hz: int
    name: str
    id: bytes
    arena: tuple[int, ...]


class Info(message.ReadRequest, _Errors):
    """Ask what the board runs."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.INFO
    _Response = InfoResponse


class TensorResponse(message.ReadResponse):
    """One input or output."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.TENSOR
    name: str
    dtype: int
    shape: tuple[int, ...]
    scale: float
    zero: int
    size: int


class Tensor(message.ReadRequest, _Errors):
    """Ask for input (`io` 0) or output (`io` 1) number `i`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.TENSOR
    _Response = TensorResponse
    io: int
    i: int


class InputResponse(message.WriteResponse):
    """Where the next write must continue; `i` is the number of inputs when all are there."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.INPUT
    i: int
    off: int


class Input(message.WriteRequest, _Errors):
    """Bytes of input `i` from `off`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.INPUT
    _Response = InputResponse
    i: int
    off: int
    data: bytes


class RunResponse(message.WriteResponse):
    """The run's ticks; `out` holds all outputs when `data` was sent and they fit."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.RUN
    ticks: int
    out: bytes | None = None


class Run(message.WriteRequest, _Errors):
    """Run on the inputs written, or on `data`: all inputs one after the other."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.RUN
    _Response = RunResponse
    data: bytes | None = None


class StepResponse(message.WriteResponse):
    """Steps `first`... of `steps`: ticks of each and CRC-32 of what each wrote (0 when not asked for)."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.STEP
    first: int
    steps: int
    ticks: tuple[int, ...]
    crc: tuple[int, ...]


class Step(message.WriteRequest, _Errors):
    """Compute up to `n` steps from `first` on; 0 begins a run."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.STEP
    _Response = StepResponse
    first: int
    n: int
    crc: bool | None = None


class PieceResponse(message.ReadResponse):
    """Bytes from `off` on, perhaps fewer than asked for."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.OUTPUT
    off: int
    data: bytes


class Output(message.ReadRequest, _Errors):
    """Ask for bytes of output `i`."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.OUTPUT
    _Response = PieceResponse
    i: int
    off: int
    len: int


class Layer(message.ReadRequest, _Errors):
    """Ask for bytes that step `step`, the last one computed, wrote."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.LAYER
    _Response = PieceResponse
    step: int
    off: int
    len: int


class MemoryResponse(message.ReadResponse):
    """Bytes of stack there are and that were ever used."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.MEMORY
    stack: int
    used: int


class Memory(message.ReadRequest, _Errors):
    """Ask for the stack's high water."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.MEMORY
    _Response = MemoryResponse


class SelfTestResponse(message.WriteResponse):
    """Bits of what failed; 0 is good."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.SELF_TEST
    failed: int


class SelfTest(message.WriteRequest, _Errors):
    """Test arena memory, CRC and ticks."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.SELF_TEST
    _Response = SelfTestResponse


class FaultResponse(message.Response):
    """Seven words of the last crash, or none."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.FAULT
    RESPONSE_TYPE = message.ResponseType.SUCCESS
    fault: tuple[int, ...]


class Fault(message.ReadRequest, _Errors):
    """Ask for the last crash."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.FAULT
    _Response = FaultResponse


class ForgetFault(message.WriteRequest, _Errors):
    """Forget the last crash."""

    _GROUP_ID = GROUP
    _COMMAND_ID = Command.FAULT
    _Response = FaultResponse
