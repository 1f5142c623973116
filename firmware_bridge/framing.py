"""SMP's console framing: packets as lines of base64 that survive among other text.

    [length 16][packet][CRC 16]  ->  base64  ->  lines of at most 127 bytes
    first line  06 09 ... 0A        further lines  04 14 ... 0A

The CRC is XMODEM's (0x1021, start 0) over the packet; `length` counts packet and CRC; both are big endian.
"""

from __future__ import annotations

import binascii
import struct

FIRST_LINE = b"\x06\x09"
NEXT_LINE = b"\x04\x14"
LINE_CHARACTERS = 124  # of base64: the line is these, two bytes before and one after
MAX_PACKET = 0xFFFF - 2
MIN_PACKET = 8  # an SMP header alone

_TEXT_KEPT = 256


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM: `crc16(b"123456789") == 0x31C3`."""
    return binascii.crc_hqx(data, 0)


def encode_frame(packet: bytes) -> bytes:
    """All lines of one packet; raises `ValueError` when it is longer than a frame can say (65,533 bytes)."""
    if not MIN_PACKET <= len(packet) <= MAX_PACKET:
        raise ValueError(f"a packet has {MIN_PACKET} to {MAX_PACKET} bytes, this one {len(packet)}")
    body = struct.pack(">H", len(packet) + 2) + packet + struct.pack(">H", crc16(packet))
    text = binascii.b2a_base64(body, newline=False)
    pieces = [text[i : i + LINE_CHARACTERS] for i in range(0, len(text), LINE_CHARACTERS)]
    return b"".join((FIRST_LINE if i == 0 else NEXT_LINE) + piece + b"\n" for i, piece in enumerate(pieces))


class FrameReader:
    """Finds packets in a stream that may hold anything else: text, noise, halves of frames.

    >>> FrameReader().feed(b"boot ok" + encode_frame(b"8 bytes."))
    [b'8 bytes.']
    """

    def __init__(self) -> None:
        self.damaged = 0  # frames that began and were not whole
        self.other_bytes = 0  # bytes outside of frames
        self.text = b""  # the last of those
        self._line = bytearray()
        self._frame: bytearray | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that `data` completes, in order."""
        packets = []
        for byte in data:
            if byte == FIRST_LINE[0] and self._line:  # stands in no line: the one before it was cut off
                self._end_line()
            self._line.append(byte)
            if byte == 0x0A:
                packet = self._end_line()
                if packet is not None:
                    packets.append(packet)
            elif len(self._line) > 2 * LINE_CHARACTERS:
                self._end_line()
        return packets

    def _end_line(self) -> bytes | None:
        line, self._line = bytes(self._line), bytearray()
        start = line.find(FIRST_LINE)
        if start >= 0:
            self._other(line[:start])
            if self._frame is not None:
                self._damage()
            self._frame = bytearray()
            return self._take(line[start + 2 :])
        start = line.find(NEXT_LINE)
        if start >= 0 and self._frame is not None:
            self._other(line[:start])
            return self._take(line[start + 2 :])
        self._other(line)
        return None

    def _take(self, line: bytes) -> bytes | None:
        """Add a line's bytes to the open frame; the packet once it is whole and its CRC right."""
        assert self._frame is not None
        try:
            self._frame += binascii.a2b_base64(line.rstrip(b"\r\n"), strict_mode=True)
        except binascii.Error:
            self._damage()
            return None
        frame = self._frame
        if not line.endswith(b"\n") or len(frame) < 2:
            self._damage()
            return None
        missing = struct.unpack(">H", frame[:2])[0] + 2 - len(frame)
        if missing > 0:
            return None
        packet = bytes(frame[2:-2])
        if missing < 0 or len(packet) < MIN_PACKET or crc16(packet) != struct.unpack(">H", frame[-2:])[0]:
            self._damage()
            return None
        self._frame = None
        return packet

    def _damage(self) -> None:
        self.damaged += 1
        self._frame = None

    def _other(self, data: bytes) -> None:
        self.other_bytes += len(data)
        self.text = (self.text + data)[-_TEXT_KEPT:]
