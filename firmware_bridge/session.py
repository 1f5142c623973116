"""A session with one board: what it runs, inputs in, a run, outputs out, layer by layer when asked. Bytes, not arrays.

    with BoardSession(open_link("/dev/ttyACM0")) as board:
        result = board.run(image)           # one bytes object per input
        result.outputs[0], result.ticks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from firmware_bridge.links import Link, name_of
from firmware_bridge.smp import Refused, SmpClient, need_smp
from firmware_bridge.training import TrainingCommands
from sdk.errors import BoardFault, DataError, DeviceError, LinkError, VersionMismatch

PROTOCOL = 1  # embarq's messages (EMBARQ_PROTOCOL in device/embarq_bridge.h) that this host speaks
DTYPES = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")  # embarq_dtype in embarq.h
FAILED_TESTS = ("an arena is missing or misaligned", "the arena memory does not hold", "the tick counter stands still", "the CRC is wrong")

_HEADER_BYTES = 8
_DATA_HEAD_BYTES = 5  # most that CBOR needs to announce a byte string
_NOT_READY = 4

#: Told as bytes go out and steps are done: (done, of how many).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Parameters:
    """How long a message the board takes, header and CBOR together, and how many at once."""

    buf_size: int
    buf_count: int


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the firmware knows it. `scale` is 0 where it is not quantised."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    size_bytes: int


@dataclass(frozen=True)
class ModelInfo:
    """The model in the firmware. `id` is the SHA-256 (hex) of the plan it was made from; `ticks_hz` 0: not told."""

    name: str
    id: str
    abi: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    step_count: int
    arena_bytes: tuple[int, ...]
    ticks_hz: int


@dataclass(frozen=True)
class RunResult:
    """One inference: bytes of each output, ticks of all steps together."""

    outputs: tuple[bytes, ...]
    ticks: int


@dataclass(frozen=True)
class StepResult:
    """One step of a stepwise run: its ticks, and the CRC-32 (zlib's) of what it wrote, None when not asked for."""

    index: int
    ticks: int
    crc: int | None


@dataclass(frozen=True)
class StackUse:
    """Bytes of stack the board has and the most that was in use since it started."""

    stack_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Fault:
    """A crash the board remembers: where (`pc`, called from `lr`), which exception, why (`cfsr`), at which address."""

    pc: int
    lr: int
    psr: int
    sp: int
    exception: int
    cfsr: int
    address: int


class BoardSession(TrainingCommands):
    """Talks to the firmware behind `link`, of a board that learns too. Errors are sentences: `LinkError`, `Refused`, `BoardFault`, `VersionMismatch`.

    timeout_s: for one message; run_timeout_s: for one message in which the model runs.
    """

    def __init__(self, link: Link, timeout_s: float = 10.0, run_timeout_s: float = 120.0, tries: int = 4) -> None:
        need_smp()
        self.link, self.name = link, name_of(link)
        self.run_timeout_s = run_timeout_s
        self._client = SmpClient(link, timeout_s, tries)
        self._parameters: Parameters | None = None
        self._info: ModelInfo | None = None

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the link back."""
        self.link.close()

    # -- who is there ---------------------------------------------------------------------------------------------------

    def echo(self, text: str = "embarq") -> str:
        """What the board says back: `text`."""
        from firmware_bridge.messages import Echo

        return self._client.request(Echo(d=text)).r

    def parameters(self) -> Parameters:
        """The board's message buffer; asked once."""
        if self._parameters is None:
            from firmware_bridge.messages import Parameters as Ask

            answer = self._client.request(Ask())
            if answer.buf_size < 128:
                raise LinkError(f"{self.name} takes messages of {answer.buf_size} bytes, and a session needs 128; flash the firmware again")
            self._parameters = Parameters(answer.buf_size, answer.buf_count)
        return self._parameters

    def info(self) -> ModelInfo:
        """The model in the firmware; asked once. Raises `VersionMismatch` when the firmware speaks another protocol."""
        if self._info is None:
            from firmware_bridge.messages import Info

            answer = self._client.request(Info())
            if answer.proto != PROTOCOL:
                raise VersionMismatch(
                    f"the firmware on {self.name} speaks protocol {answer.proto}, this embarq {PROTOCOL}; flash it again or update embarq"
                )
            inputs = tuple(self._tensor(0, i) for i in range(answer.inputs))
            outputs = tuple(self._tensor(1, i) for i in range(answer.outputs))
            self._info = ModelInfo(answer.name, answer.id.hex(), answer.abi, inputs, outputs, answer.steps, answer.arena, answer.hz)
        return self._info

    def _tensor(self, side: int, index: int) -> TensorInfo:
        from firmware_bridge.messages import Tensor

        t = self._client.request(Tensor(io=side, i=index))
        if not 0 <= t.dtype < len(DTYPES):
            raise VersionMismatch(f"tensor {t.name} on {self.name} has data type {t.dtype}, unknown to this embarq; update embarq")
        return TensorInfo(t.name, DTYPES[t.dtype], t.shape, t.scale, t.zero, t.size)

    # -- running --------------------------------------------------------------------------------------------------------

    def run(self, *inputs: bytes, progress: Progress | None = None) -> RunResult:
        """One inference. `inputs`: the bytes of each input, in the model's order, little endian."""
        self._check(inputs)
        with _faults_explained(self):
            if sum(map(len, inputs)) <= self._room(_run_request(b"")):
                answer = self._client.request(_run_request(b"".join(inputs)), self.run_timeout_s)
            else:
                self.write_inputs(*inputs, progress=progress)
                answer = self._client.request(_run_request(None), self.run_timeout_s)
            outputs = self._split(answer.out) if answer.out is not None else self.read_outputs()
        return RunResult(outputs, answer.ticks)

    def write_inputs(self, *inputs: bytes, progress: Progress | None = None) -> None:
        """Send all inputs, in order; goes on where the board says it is when messages were lost."""
        from firmware_bridge.messages import Input

        self._check(inputs)
        index, offset, total = 0, 0, sum(map(len, inputs))
        room = self._room(Input(i=0xFFFF, off=0xFFFFFFFF, data=b""))
        # Each message moves the place on, unless an old one came twice and threw the board back: rare, and bounded here.
        for _ in range(4 * (total // room + len(inputs)) + 16):
            if index >= len(inputs):
                return
            answer = self._client.request(Input(i=index, off=offset, data=inputs[index][offset : offset + room]))
            index, offset = self._place(inputs, answer.i, answer.off)
            if progress:
                progress(sum(map(len, inputs[:index])) + offset, total)
        raise LinkError(f"inputs do not arrive on {self.name}: the board keeps asking for bytes sent before; check the cable")

    def _place(self, inputs: tuple[bytes, ...], index: int, offset: int) -> tuple[int, int]:
        done = index == len(inputs) and offset == 0
        if not done and not (0 <= index < len(inputs) and 0 <= offset <= len(inputs[index])):
            raise LinkError(f"{self.name} asks for byte {offset} of input {index}, which does not exist; flash the firmware again")
        return index, offset

    def read_outputs(self) -> tuple[bytes, ...]:
        """The bytes of each output of the run that was done last."""
        from firmware_bridge.messages import Output

        def one(index: int, size_bytes: int) -> bytes:
            return self._pieces(size_bytes, lambda off, n: Output(i=index, off=off, len=n))

        return tuple(one(i, tensor.size_bytes) for i, tensor in enumerate(self.info().outputs))

    def _pieces(self, size: int, ask: Callable[[int, int], Any]) -> bytes:
        """`size` bytes, asked for piece by piece."""
        data = bytearray()
        while len(data) < size:
            answer = self._client.request(ask(len(data), size - len(data)))
            if answer.off != len(data) or not 0 < len(answer.data) <= size - len(data):
                raise LinkError(f"{self.name} sent other bytes than were asked for; flash the firmware again")
            data += answer.data
        return bytes(data)

    # -- step by step ---------------------------------------------------------------------------------------------------

    def steps(self, *inputs: bytes, crc: bool = True, progress: Progress | None = None) -> Iterator[StepResult]:
        """Run step by step; a result per step as its page arrives. `read_outputs` holds the outputs after the last."""
        from firmware_bridge.messages import Step

        self.write_inputs(*inputs)
        yield from self._steps(lambda first, n: Step(first=first, n=n, crc=crc), self.info().step_count, crc, progress)

    def _steps(self, ask: Callable[[int, int], Any], end: int, crc: bool, progress: Progress | None = None) -> Iterator[StepResult]:
        first = 0
        while first < end:
            with _faults_explained(self):
                page = self._client.request(ask(first, end - first), self.run_timeout_s)
            count = len(page.ticks)
            if page.first != first or len(page.crc) != count or not 0 < count <= end - first:
                raise LinkError(f"{self.name} told of other steps than were asked for; flash the firmware again")
            for k in range(count):
                yield StepResult(first + k, page.ticks[k], page.crc[k] if crc else None)
            first += count
            if progress:
                progress(first, end)

    def profile(self, *inputs: bytes, progress: Progress | None = None) -> tuple[int, ...]:
        """Ticks of each step of one inference."""
        return tuple(step.ticks for step in self.steps(*inputs, crc=False, progress=progress))

    def step_crcs(self, *inputs: bytes, progress: Progress | None = None) -> tuple[int, ...]:
        """CRC-32 (`zlib.crc32`) of what each step wrote: the golden check."""
        return tuple(step.crc or 0 for step in self.steps(*inputs, crc=True, progress=progress))

    def layer(self, index: int, size_bytes: int, *inputs: bytes) -> bytes:
        """What step `index` writes, `size_bytes` of it, from a run on `inputs` that stops there."""
        from firmware_bridge.messages import Layer, Step

        if not 0 <= index < self.info().step_count:
            raise DataError(f"step {index} was asked for and the model has {self.info().step_count}; count from 0")
        self.write_inputs(*inputs)
        for _ in self._steps(lambda first, n: Step(first=first, n=n), index + 1, False):
            pass
        return self._pieces(size_bytes, lambda off, n: Layer(step=index, off=off, len=n))

    # -- the board itself -----------------------------------------------------------------------------------------------

    def memory(self) -> StackUse:
        """How much stack the board has, and has used."""
        from firmware_bridge.messages import Memory

        answer = self._client.request(Memory())
        return StackUse(answer.stack, answer.used)

    def self_test(self) -> None:
        """Let the board test its arena memory, CRC and ticks; raises `DeviceError` with what failed. Results are lost."""
        from firmware_bridge.messages import SelfTest

        failed = self._client.request(SelfTest(), self.run_timeout_s).failed
        if failed:
            texts = [text for bit, text in enumerate(FAILED_TESTS) if failed >> bit & 1] or [f"test {failed}"]
            raise DeviceError(f"the board on {self.name} fails its self-test: {', '.join(texts)}; flash it again or use another board")

    def fault(self) -> Fault | None:
        """The last crash that the board remembers; it is forgotten by asking."""
        from firmware_bridge.messages import Fault as Ask
        from firmware_bridge.messages import ForgetFault

        words = self._client.request(Ask()).fault
        if len(words) != 7:
            return None
        self._client.request(ForgetFault())
        return Fault(*words)

    def reset(self) -> None:
        """Restart the board; returns once it answers again."""
        from firmware_bridge.messages import Reset

        self._client.request(Reset())
        self._parameters = self._info = None
        self.echo()

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _check(self, inputs: tuple[bytes, ...]) -> None:
        wanted = self.info().inputs
        if len(inputs) != len(wanted):
            raise DataError(f"{len(inputs)} inputs were given and the model has {len(wanted)}; give them in the order of its info")
        for data, tensor in zip(inputs, wanted, strict=True):
            if len(data) != tensor.size_bytes:
                raise DataError(
                    f"input {tensor.name} was given {len(data)} bytes and takes {tensor.size_bytes} ({tensor.dtype}{list(tensor.shape)}); "
                    "give exactly these"
                )

    def _room(self, request: Any) -> int:
        """Data bytes that fit into a message beside what `request` with empty data has already."""
        return self.parameters().buf_size - len(bytes(request)) - _DATA_HEAD_BYTES

    def _split(self, data: bytes) -> tuple[bytes, ...]:
        sizes = [t.size_bytes for t in self.info().outputs]
        if len(data) != sum(sizes):
            raise LinkError(f"{self.name} sent {len(data)} bytes of outputs and the model has {sum(sizes)}; flash the firmware again")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return tuple(data[start : start + size] for start, size in zip(starts, sizes, strict=True))


class _faults_explained:  # noqa: N801  used as a function would be
    """A board that crashed starts anew and has forgotten the inputs: what it remembers of the crash is the true reason."""

    def __init__(self, session: BoardSession) -> None:
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Refused) or (error.group, error.code) != (64, _NOT_READY):
            return
        fault = self._session.fault()
        if fault is not None:
            raise BoardFault(
                f"the program on {self._session.name} crashed at address {fault.pc:#010x} (exception {fault.exception}, "
                f"CFSR {fault.cfsr:#x}, access to {fault.address:#010x}) and started anew; look the address up in the firmware's ELF"
            ) from error


def _run_request(data: bytes | None) -> Any:
    from firmware_bridge.messages import Run

    return Run() if data is None else Run(data=data)
