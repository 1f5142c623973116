"""The emulated board as a byte link, like a serial port."""

from __future__ import annotations

from firmware_bridge.emulator.board import EmulatedBoard

SLICE = 5_000_000  # instructions between two looks at the clock


class EmulatorLink:
    """write() queues bytes; read() runs the board until it has sent something or waits for input."""

    def __init__(self, board: EmulatedBoard) -> None:
        self.board = board
        self._closed = False

    def write(self, data: bytes) -> None:
        """Bytes for the board."""
        self.board.write(data)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Up to max_bytes from the board; b"" when it waits for input or timeout_s passes. Raises BoardFault when it crashes."""
        import time

        end = time.monotonic() + timeout_s
        while not self._closed:
            data = self.board.take(max_bytes)
            if data or max_bytes <= 0:
                return data
            if self.board.run(max_instructions=SLICE) in ("idle", "sleep", "off"):
                return self.board.take(max_bytes)
            if time.monotonic() >= end:
                return self.board.take(max_bytes)
        return b""

    def close(self) -> None:
        """The board stops being run."""
        self._closed = True
