"""Models of the UARTs: what a polled driver sees of each, no more. Every one moves bytes between its registers and a Port."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

IDLE_POLLS = 8  # so many looks at an empty receiver in a row ...
IDLE_GAP = 500  # ... with fewer instructions than this between two, and the firmware is waiting for input


@dataclass
class Port:
    """Both directions of the line, and whether the firmware is waiting."""

    now: Callable[[], int]  # executed instructions
    idle: Callable[[], None]  # called when the firmware waits for input
    received: deque[int] = field(default_factory=deque)  # host -> board
    sent: bytearray = field(default_factory=bytearray)  # board -> host
    _polls: int = 0
    _last: int = 0

    def waiting(self) -> bool:
        """Is there a byte to read? Asking over and over when there is none means the firmware has nothing to do."""
        if self.received:
            self._polls = 0
            return True
        now = self.now()
        self._polls = self._polls + 1 if now - self._last < IDLE_GAP else 1
        self._last = now
        if self._polls >= IDLE_POLLS:
            self._polls = 0
            self.idle()
        return False

    def take(self) -> int:
        """The next byte for the board, 0 when there is none."""
        return self.received.popleft() if self.received else 0

    def send(self, byte: int) -> None:
        """A byte from the board."""
        self.sent.append(byte & 0xFF)
        self._polls = 0


class Uart(Protocol):
    """Registers of one UART, by offset from its base."""

    def read(self, offset: int) -> int:
        """The value a load sees."""

    def write(self, offset: int, value: int) -> None:
        """A store."""


class Memory(Protocol):
    """The RAM, for peripherals that fetch and store by themselves."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address."""

    def write(self, address: int, data: bytes) -> None:
        """Puts bytes there."""


@dataclass
class StatusUart:
    """A UART with a status register and data registers: STM32 v1 and v2, PL011, CMSDK."""

    port: Port
    status: int
    rx: int
    tx: int
    ready: int  # status bits that are always set: transmitter empty
    full: int = 0  # status bit that is set when a byte waits ...
    empty: int = 0  # ... or the one that is set when none does
    registers: dict[int, int] = field(default_factory=dict)

    def read(self, offset: int) -> int:
        """Status, a received byte, or what was last written."""
        if offset == self.status:
            return self.ready | (self.full if self.port.waiting() else self.empty)
        if offset == self.rx:
            return self.port.take()
        return self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """A byte to send, or a setting."""
        if offset == self.tx:
            self.port.send(value)
        else:
            self.registers[offset] = value


@dataclass
class NrfUart:
    """Nordic's legacy UART: events instead of status bits. RXDRDY rises once for each byte that reaches RXD."""

    port: Port
    acknowledged: bool = False
    sent: bool = False
    registers: dict[int, int] = field(default_factory=dict)

    def read(self, offset: int) -> int:
        """Events, the received byte, settings."""
        match offset:
            case 0x108:
                return int(not self.acknowledged and self.port.waiting())
            case 0x11C:
                return int(self.sent)
            case 0x518:
                self.acknowledged = False
                return self.port.take()
        return self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Clearing events, sending, settings."""
        match offset:
            case 0x108:
                self.acknowledged = bool(self.port.received) and value == 0
            case 0x11C:
                self.sent = bool(value)
            case 0x51C:
                self.port.send(value)
                self.sent = True
            case _:
                self.registers[offset] = value


@dataclass
class NrfUarte:
    """Nordic's UART with DMA: buffers in RAM, ENDRX and ENDTX when one is done. DMA does not reach the flash."""

    port: Port
    memory: Memory
    receiving: bool = False
    registers: dict[int, int] = field(default_factory=dict)

    def read(self, offset: int) -> int:
        """ENDRX looks at the line first, as the DMA would have done by then."""
        if offset == 0x110 and self.receiving and self.port.waiting():
            size = min(self.registers.get(0x538, 0), len(self.port.received))
            self.memory.write(self.registers.get(0x534, 0), bytes(self.port.take() for _ in range(size)))
            self.registers |= {0x53C: size, 0x110: 1}
            self.receiving = False
        return self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """STARTRX, STARTTX, settings."""
        match offset:
            case 0x000:
                self.receiving = True
            case 0x008:
                for byte in self.memory.read(self.registers.get(0x544, 0), self.registers.get(0x548, 0)):
                    self.port.send(byte)
                self.registers |= {0x54C: self.registers.get(0x548, 0), 0x120: 1}
            case _:
                self.registers[offset] = value


def make_uart(model: str, port: Port, memory: Memory) -> Uart | None:
    """The model with that name in a device file; None when there is none."""
    match model:
        case "stm32-usart-v1":
            return StatusUart(port, status=0x00, rx=0x04, tx=0x04, ready=0xC0, full=1 << 5)
        case "stm32-usart-v2":
            return StatusUart(port, status=0x1C, rx=0x24, tx=0x28, ready=0x6000C0, full=1 << 5)
        case "pl011":
            return StatusUart(port, status=0x18, rx=0x00, tx=0x00, ready=1 << 7, empty=1 << 4)
        case "cmsdk-uart":
            return StatusUart(port, status=0x04, rx=0x00, tx=0x00, ready=0, full=1 << 1)
        case "nrf-uart":
            return NrfUart(port)
        case "nrf-uarte":
            return NrfUarte(port, memory)
    return None


UART_MODELS = ("stm32-usart-v1", "stm32-usart-v2", "pl011", "cmsdk-uart", "nrf-uart", "nrf-uarte")
