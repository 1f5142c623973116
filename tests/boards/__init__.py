"""Small C programs for boards, built with the same flags as every firmware, and ELF files made by hand."""

from __future__ import annotations

import functools
import struct
import tempfile
from pathlib import Path

from sdk.backends.firmware.toolchain import Source, toolchain
from targets.boards import defines, include_folders, linker_script, sources
from targets.device import Device, load_device

HERE = Path(__file__).resolve().parent


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="embarq-boards-")


@functools.cache
def build(device_name: str, program: str, compiler: str = "zig", optimise: str = "2") -> Path:
    """The ELF of tests/boards/<program>.c for a device, built once in a test run, for the core that is emulated."""
    device = load_device(device_name).as_emulated()
    folder = Path(_root().name) / f"{device_name}-{program}-{compiler}-{optimise}"
    if (folder / "program.elf").exists():  # asked for with other spelling of the arguments
        return folder / "program.elf"
    folder.mkdir()
    (folder / "board.ld").write_text(linker_script(device))
    rows = []
    for path in [*sources(device), HERE / f"{program}.c"]:
        target = folder / f"{path.parent.name}_{path.name}"
        target.write_bytes(path.read_bytes())
        rows.append(Source(Path(target.name), tuple(include_folders()), defines(device), optimise))
    kit = toolchain(device, compiler)
    return kit.link(kit.compile(rows, folder), Path("board.ld"), Path("program.elf"), folder)


def hand_made_elf(code: bytes, device: Device) -> bytes:
    """An ELF whose program is a vector table and then `code`, without symbols."""
    start = device.flash.usable_start + device.vector_offset
    table = struct.pack("<16I", device.main_ram.usable_start + 4096, *[start + 64 | 1] * 15)
    data = table + code
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, start + 65, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    segment = struct.pack("<8I", 1, 84, start, start, len(data), len(data), 5, 4)
    return header + segment + data
