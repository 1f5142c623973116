"""The little of the ELF format that an emulator needs: what to load, and which name stands at which address."""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sdk.errors import UsageError


@dataclass(frozen=True)
class Segment:
    """Bytes to be put at `address` (a load address: .data stands in flash)."""

    address: int
    data: bytes
    executable: bool


@dataclass(frozen=True)
class Symbol:
    """A name in the program."""

    name: str
    address: int
    size_bytes: int
    is_function: bool


@dataclass(frozen=True)
class Program:
    """A firmware read from its ELF file."""

    name: str
    segments: tuple[Segment, ...]
    symbols: dict[str, Symbol]

    @cached_property
    def _functions(self) -> tuple[list[int], list[Symbol]]:
        found = sorted((s for s in self.symbols.values() if s.is_function), key=lambda s: s.address)
        return [s.address for s in found], found

    def function_at(self, address: int) -> Symbol | None:
        """The function that holds the address."""
        starts, found = self._functions
        index = bisect.bisect_right(starts, address) - 1
        if index < 0 or address >= found[index].address + max(found[index].size_bytes, 2):
            return None
        return found[index]

    def place(self, address: int) -> str:
        """'0x08000124 in conv_1+0x24' for a message."""
        function = self.function_at(address)
        return f"{address:#010x}" + (f" in {function.name}+{address - function.address:#x}" if function else "")


def load_elf(source: bytes | str | Path) -> Program:
    """Reads a 32-bit little-endian ARM ELF file. Raises UsageError when it is something else or damaged."""
    name, data = ("the given bytes", source) if isinstance(source, bytes) else (str(source), _read(Path(source)))
    try:
        return _parse(name, data)
    except (struct.error, IndexError, ValueError):
        raise UsageError(f"{name} is a damaged ELF file; build it again.") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The firmware {path} cannot be read ({error.strerror}); give an ELF file that exists.") from None


def _parse(name: str, data: bytes) -> Program:
    if data[:6] != b"\x7fELF\x01\x01" or struct.unpack_from("<H", data, 18)[0] != 40:
        raise UsageError(f"{name} is not a 32-bit ARM ELF file; give the .elf that the firmware backend writes.")
    phoff, shoff = struct.unpack_from("<II", data, 28)
    phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHH", data, 42)
    segments = tuple(s for i in range(phnum) if (s := _segment(data, phoff + i * phentsize)))
    sections = [struct.unpack_from("<10I", data, shoff + i * shentsize) for i in range(shnum)]
    symbols: dict[str, Symbol] = {}
    for section in sections:
        if section[1] == 2:  # SHT_SYMTAB
            symbols.update(_symbols(data, section, sections[section[6]]))
    return Program(name, segments, symbols)


def _segment(data: bytes, at: int) -> Segment | None:
    kind, offset, _, load_address, size, _, flags, _ = struct.unpack_from("<8I", data, at)
    if kind != 1 or size == 0:  # PT_LOAD
        return None
    if offset + size > len(data):
        raise ValueError("segment outside the file")
    return Segment(load_address, data[offset : offset + size], bool(flags & 1))


def _symbols(data: bytes, table: tuple[int, ...], names: tuple[int, ...]) -> dict[str, Symbol]:
    text = data[names[4] : names[4] + names[5]]
    found: dict[str, Symbol] = {}
    for at in range(table[4], table[4] + table[5], 16):
        name_at, value, size, info, _, _ = struct.unpack_from("<IIIBBH", data, at)
        kind = info & 15
        if name_at == 0 or kind > 2:  # no name, or a section or file
            continue
        name = text[name_at : text.index(b"\0", name_at)].decode("utf-8", "replace")
        if name.startswith("$"):  # mapping symbols: $t, $d
            continue
        found[name] = Symbol(name, value & ~1 if kind == 2 else value, size, kind == 2)
    return found
