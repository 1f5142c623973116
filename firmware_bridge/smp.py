"""An SMP client over a `Link`: sends a request again when it or its answer was lost, and says plainly what is wrong.

Every request of ours, and echo and parameters of the OS group, may be carried out twice without harm, so a lost answer
is mended by asking again. Each try has a sequence number of its own; any of them is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from firmware_bridge.framing import FrameReader, encode_frame
from firmware_bridge.links import Link, drain, mend_of, name_of
from sdk.errors import DeviceError, LinkError, ToolError

if TYPE_CHECKING:
    from smp.header import Header
    from smp.message import Request

#: What the board says no with, as the end of a sentence. Group 64: embarq_bridge_error in device/embarq_bridge.h.
MODEL_REFUSALS: Mapping[int, str] = MappingProxyType({
    1: "a value is missing, of the wrong type or out of range; use the host and the firmware of one embarq version",
    2: "there is no input, output or step of that number; look at the model's info",
    3: "the bytes reach beyond the end of the tensor; send exactly as many as the model's info says",
    4: "not every input has been written since the last run; write all inputs, then run",
    5: "the model has not run on these inputs yet; run it before reading outputs",
    6: "the data is not as long as all inputs together; send exactly as many bytes as the model's info says",
    7: "steps must be taken in order, and a layer read right after its step; begin the stepwise run again",
    8: "model and runtime in the firmware were made by different versions; compile and flash the model again",
    9: "a self-test would lose values that were trained and not committed; commit or forget them first",
})  # fmt: skip
#: The same for training, group 65: embarq_training_error.
TRAINING_REFUSALS: Mapping[int, str] = MappingProxyType({
    1: "a value is missing, of the wrong type or out of range; use the host and the firmware of one embarq version",
    2: "there is no variable of that number; look at the training's info",
    3: "the bytes reach beyond the end of the variable; send exactly as many as its size says",
    4: "not every input has been written since the last step; write the sample, then take the step",
    5: "training steps must be numbered one after the other; start training again",
    6: "no class has that label; labels count from 0 to one less than the model's classes",
    7: "the data is not as long as one sample; send exactly as many bytes as the model's info says",
    8: "model and runtime in the firmware were made by different versions; compile and flash the model again",
    9: "training has not been started since the board was; start it, then take steps",
    10: "there is no flash set aside that this board can write; pull the trained values before it loses power, and push them afterwards",
    11: "the flash does not keep what is written, and the copy before still stands; the sectors may be worn out or write-protected: use another board",
})  # fmt: skip
SMP_REFUSALS: Mapping[int, str] = MappingProxyType({
    1: "of an unknown error; reset the board",
    2: "it is out of memory; reset the board",
    3: "the message is not as the protocol says; use the host and the firmware of one embarq version",
    5: "there is no such entry; ask for one that exists",
    6: "its state does not allow it; reset the board",
    7: "the message or its answer is longer than its buffer; build the firmware with a larger EMBARQ_BRIDGE_BUFFER",
    8: "it does not know the command; flash a firmware of this embarq version",
    9: "the message's length is wrong; use the host and the firmware of one embarq version",
    10: "it is busy; try again",
    11: "it is not allowed; unlock the board first",
    12: "it speaks a newer protocol only; update embarq",
    13: "it speaks an older protocol only; flash a firmware of this embarq version",
})  # fmt: skip


class Refused(DeviceError):
    """The board answered a request with an error: `group` None for SMP's own codes, else the group whose `code` it is."""

    def __init__(self, text: str, group: int | None, code: int) -> None:
        super().__init__(text)
        self.group, self.code = group, code


class SmpClient:
    """Requests and answers over one link.

    timeout_s: how long one request may take in all; it is sent `tries` times within.
    """

    def __init__(self, link: Link, timeout_s: float = 10.0, tries: int = 4) -> None:
        self.link, self.timeout_s, self.tries = link, timeout_s, tries
        self._sequence = 0
        self._reader = FrameReader()
        drain(link)  # an answer to whoever spoke to the board before us

    def request(self, request: Request, timeout_s: float | None = None) -> Any:
        """The answer, an object of `request._Response`. Raises `Refused` when the board says no, `LinkError` when it says nothing."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        expected = (request.header.group_id, int(request.header.command_id), int(request.header.op) + 1)
        numbers: set[int] = set()
        self._reader = FrameReader()
        for _ in range(self.tries):
            numbers.add(self._sequence)
            self.link.write(encode_frame(_numbered(request, self._sequence)))
            self._sequence = (self._sequence + 1) % 256
            packet = self._wait(expected, numbers, limit_s / self.tries)
            if packet is not None:
                return _open_answer(request, packet, name_of(self.link))
        raise LinkError(self._silence(limit_s))

    def _wait(self, expected: tuple[int, int, int], numbers: set[int], limit_s: float) -> bytes | None:
        """The packet that answers one of `numbers`; None when the link falls silent or `limit_s` is over."""
        end = time.monotonic() + limit_s
        while (left := end - time.monotonic()) > 0:
            data = self.link.read(4096, left)
            if not data:
                return None
            for packet in self._reader.feed(data):
                header = _header(packet)
                if header is not None and header.sequence in numbers and _kind(header) == expected:
                    return packet
        return None

    def _silence(self, limit_s: float) -> str:
        """What a user should look at, from what came in place of an answer."""
        reader, name, mend = self._reader, name_of(self.link), mend_of(self.link)
        if reader.damaged:
            return f"every answer from {name} came damaged ({reader.damaged} in {limit_s:g} s); use a shorter cable or a lower baud rate"
        if reader.other_bytes:
            text = reader.text.decode("ascii", "replace").encode("ascii", "replace").decode()
            sample = "".join(c if c.isprintable() else "?" for c in text)[-32:]
            return f"no answer on {name} within {limit_s:g} s, only {reader.other_bytes} other bytes ({sample!r}); {mend}"
        return f"no answer on {name} within {limit_s:g} s; {mend}"


def need_smp() -> None:
    """Raises `ToolError` with the mend when the packages of the `bridge` extra are absent."""
    try:
        import smp.message  # noqa: F401
    except ImportError as error:
        raise ToolError('talking to a board needs the smp package; run: pip install "embarq[bridge]"') from error


def _numbered(request: Request, sequence: int) -> bytes:
    """The request's packet under another sequence number, the seventh byte of the header."""
    packet = bytes(request)
    return packet[:6] + bytes([sequence]) + packet[7:]


def _header(packet: bytes) -> Header | None:
    from smp.header import Header

    try:
        return Header.loads(packet[: Header.SIZE])
    except ValueError:  # a group, command or op that nobody defined
        return None


def _kind(header: Header) -> tuple[int, int, int]:
    return int(header.group_id), int(header.command_id), int(header.op)


def _open_answer(request: Any, packet: bytes, name: str) -> Any:
    """The answer's object, or its error raised."""
    import cbor2

    what = f"{name} refused {type(request).__name__.removesuffix('Request')}"
    try:
        content = cbor2.loads(packet[8:])
        if isinstance(content.get("err"), dict):
            group, code = int(content["err"]["group"]), int(content["err"]["rc"])
            known = {64: MODEL_REFUSALS, 65: TRAINING_REFUSALS}.get(group, {})
            raise Refused(f"{what}: {known.get(code, f'error {code} of group {group}; see its documentation')}", group, code)
        if int(content.get("rc", 0)) != 0:
            code = int(content["rc"])
            raise Refused(f"{what}: {SMP_REFUSALS.get(code, f'error {code}; see the SMP documentation')}", None, code)
        return request._Response.loads(packet)
    except Refused:
        raise
    except Exception as error:  # cbor2 and pydantic have many; to us the answer is simply not one
        raise LinkError(
            f"{name} answered {type(request).__name__} with something else than the protocol says ({type(error).__name__}); "
            "use the host and the firmware of one embarq version"
        ) from error
