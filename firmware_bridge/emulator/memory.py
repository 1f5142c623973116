"""The board's memories as buffers of this process, at the board's addresses."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import Any

from sdk.errors import UsageError
from targets.device import Device, Memory

PAGE = 0x1000  # the emulator maps whole pages


class BoardMemory:
    """Every bank of the device. Neighbouring RAM banks share one buffer, so that data may lie across them."""

    def __init__(self, device: Device) -> None:
        self._name = device.name
        regions = device.arena_regions()
        others = [m for m in device.memories if not any(r.start <= m.start and m.end <= r.end for r in regions)]
        self._spans = [(bank, (ctypes.c_uint8 * bank.size_bytes)()) for bank in (*regions, *others)]
        self._banks = device.memories
        for bank in self._banks:
            if bank.start % PAGE or bank.size_bytes % PAGE:
                raise UsageError(f"{bank.name} of {device.name} does not fill whole pages of {PAGE} bytes and cannot be emulated.")

    def _find(self, address: int, size: int) -> tuple[Memory, Any]:
        for span, buffer in self._spans:
            if span.start <= address and address + size <= span.end:
                return span, buffer
        raise UsageError(f"{self._name} has no memory of {size} bytes at {address:#010x}; give an address inside one of its memories.")

    def lose_ram(self, noise: random.Random) -> None:
        """What RAM holds when current flows again: anything."""
        for span, buffer in self._spans:
            if span.kind == "ram":
                ctypes.memmove(buffer, noise.randbytes(span.size_bytes), span.size_bytes)

    def pointer(self, address: int, size: int = 1) -> int:
        """Where the bytes at `address` stand in this process. Raises UsageError outside of every memory."""
        span, buffer = self._find(address, size)
        return ctypes.addressof(buffer) + address - span.start

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address` on."""
        return ctypes.string_at(self.pointer(address, size), size)

    def write(self, address: int, data: bytes) -> None:
        """Puts bytes at `address`, also into flash."""
        ctypes.memmove(self.pointer(address, len(data)), data, len(data))

    def map_into(self, cpu: Any, api: Any) -> None:
        """Maps each bank: flash cannot be written, RAM without the role "code" cannot be executed."""
        for bank in self._banks:
            rights = api.UC_PROT_READ | (api.UC_PROT_EXEC if bank.kind == "flash" else api.UC_PROT_WRITE)
            rights |= api.UC_PROT_EXEC if "code" in bank.roles else 0
            cpu.mem_map_ptr(bank.start, bank.size_bytes, rights, self.pointer(bank.start))


@dataclass(frozen=True)
class Dma:
    """RAM as a peripheral's DMA sees it: flash is out of reach, it reads zeros there."""

    device: Device
    memory: BoardMemory

    def _reaches(self, address: int, size: int) -> bool:
        return any(bank.start <= address and address + size <= bank.end for bank in self.device.arena_regions())

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address."""
        return self.memory.read(address, size) if self._reaches(address, size) else bytes(size)

    def write(self, address: int, data: bytes) -> None:
        """Puts bytes there."""
        if self._reaches(address, len(data)):
            self.memory.write(address, data)
