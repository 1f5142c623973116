"""The files a board takes, made from the ELF: flat binary, Intel HEX, UF2; and the sizes that are really in it."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdk.errors import ToolError

# https://github.com/microsoft/uf2, "File format": 512-byte blocks, 256 bytes of payload each.
_UF2_MAGIC = (0x0A324655, 0x9E5D5157, 0x0AB16F30)
_UF2_FAMILY_PRESENT = 0x00002000
_UF2_PAYLOAD = 256


@dataclass(frozen=True)
class Segment:
    """Bytes that lie in non-volatile memory at `address` (load address, not run address)."""

    address: int
    data: bytes


@dataclass(frozen=True)
class ElfSizes:
    """Bytes by section kind: `text` is code, `rodata` constants and tables, `data` initialised RAM, `bss` zeroed RAM, `arena` lent RAM."""

    text: int
    rodata: int
    data: int
    bss: int
    arena: int

    @property
    def flash(self) -> int:
        """Bytes in flash: code, constants and the initial values of `data`."""
        return self.text + self.rodata + self.data


def _open(elf: Path):  # type: ignore[no-untyped-def]  # pyelftools has no types
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise ToolError('reading an ELF needs pyelftools; run: pip install "embarq[firmware]"') from error
    return ELFFile(io.BytesIO(elf.read_bytes()))


def segments(elf: Path) -> list[Segment]:
    """The loadable contents of an ELF in address order."""
    found = [
        Segment(int(s["p_paddr"]), s.data())
        for s in _open(elf).iter_segments()
        if s["p_type"] == "PT_LOAD" and s["p_filesz"] > 0
    ]
    return sorted(found, key=lambda s: s.address)


def sizes(elf: Path) -> ElfSizes:
    """Section sizes of an ELF, counted as `ElfSizes` says."""
    total = {"text": 0, "rodata": 0, "data": 0, "bss": 0, "arena": 0}
    for section in _open(elf).iter_sections():
        kind = _kind(section)
        if kind:
            total[kind] += int(section["sh_size"])
    return ElfSizes(**total)


def _kind(section) -> str | None:  # type: ignore[no-untyped-def]
    flags = int(section["sh_flags"])
    alloc, write, execute = flags & 2, flags & 1, flags & 4
    if not alloc or section.name.startswith(".stack"):
        return None
    if section.name.startswith(".arena"):
        return "arena"
    if section["sh_type"] == "SHT_NOBITS":
        return "bss"
    if (write and not execute) or section.name.startswith(".data"):  # code that runs in RAM stands in .data, too
        return "data"
    return "text" if execute else "rodata"


def symbols(elf: Path) -> Mapping[str, tuple[int, int]]:
    """Symbol name -> (address, size); the Thumb bit of functions is cleared."""
    table = _open(elf).get_section_by_name(".symtab")
    if table is None:
        return {}
    return {s.name: (int(s["st_value"]) & ~(s["st_info"]["type"] == "STT_FUNC"), int(s["st_size"])) for s in table.iter_symbols() if s.name}


def to_bin(parts: list[Segment]) -> bytes:
    """One flat image from the first byte to the last; gaps are 0xff, as erased flash is."""
    start = parts[0].address
    image = bytearray()
    for part in parts:
        image += b"\xff" * (part.address - start - len(image))
        image += part.data
    return bytes(image)


def to_hex(parts: list[Segment]) -> bytes:
    """Intel HEX."""
    try:
        from intelhex import IntelHex
    except ImportError as error:
        raise ToolError('writing Intel HEX needs intelhex; run: pip install "embarq[firmware]"') from error
    image = IntelHex()
    for part in parts:
        image.frombytes(part.data, offset=part.address)
    text = io.StringIO()
    image.write_hex_file(text, eolstyle="native")
    return text.getvalue().replace("\r\n", "\n").encode()


def to_uf2(parts: list[Segment], family: int) -> bytes:
    """UF2 for the board family `family`: every 256-byte page that holds data, in address order, padded with 0xff."""
    pages: dict[int, bytearray] = {}
    for part in parts:
        for index, byte in enumerate(part.data):
            address = part.address + index
            page = pages.setdefault(address & ~(_UF2_PAYLOAD - 1), bytearray(b"\xff" * _UF2_PAYLOAD))
            page[address & (_UF2_PAYLOAD - 1)] = byte
    blocks = []
    for number, (address, payload) in enumerate(sorted(pages.items())):
        head = struct.pack("<8I", _UF2_MAGIC[0], _UF2_MAGIC[1], _UF2_FAMILY_PRESENT, address, _UF2_PAYLOAD, number, len(pages), family)
        blocks.append(head + bytes(payload) + bytes(476 - _UF2_PAYLOAD) + struct.pack("<I", _UF2_MAGIC[2]))
    return b"".join(blocks)
