"""Every board's start-up, clock, UART and linker script: built, run on its emulated board, and looked at."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_bridge.emulator import EmulatedBoard
from firmware_bridge.emulator.elf import load_elf
from sdk.errors import ToolError
from targets import boards
from targets.device import Device, device_names, load_device
from tests.boards import build

CORTEX_M = [name for name in device_names() if load_device(name).family]
ONE_OF_EACH = sorted({load_device(name).family: name for name in reversed(CORTEX_M)}.values())


def emulate(name: str, program: str, compiler: str = "zig", **options: object) -> EmulatedBoard:
    return EmulatedBoard(load_device(name).as_emulated(), build(name, program, compiler), **options)  # type: ignore[arg-type]


def check_echo(name: str, compiler: str) -> None:
    board = emulate(name, "echo", compiler)
    assert board.run(max_instructions=1_000_000) == "idle"
    assert board.take() == b"hello\n"
    message = bytes(range(256))
    board.write(message)
    assert board.run(max_instructions=1_000_000) == "idle"
    assert board.take() == message
    assert 0 < board.stack_peak_bytes() < 1024


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_echo_on_one_board_of_each_family(name: str) -> None:
    check_echo(name, "zig")


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", CORTEX_M)
def test_echo_on_every_board_with_both_compilers(name: str, compiler: str) -> None:
    check_echo(name, compiler)


def test_every_family_has_a_device_and_every_file_exists() -> None:
    assert {load_device(name).family for name in CORTEX_M} == set(boards.FAMILIES)
    for name in CORTEX_M:
        assert all(path.is_file() for path in boards.sources(name))


@pytest.mark.parametrize("name", ["stm32f405", "rp2040"])
def test_start_up_fills_data_clears_bss_and_keeps_noinit_over_a_reset(name: str) -> None:
    board = emulate(name, "probe")
    board.write(b"i")
    board.run(max_instructions=1_000_000)
    assert board.take() == b"ready\ngood\n"
    board.write(b"x")  # spoils all three, then asks for a reset
    board.run(max_instructions=1_000_000)
    board.write(b"ik")
    board.run(max_instructions=1_000_000)
    assert board.take() == b"ready\ngood\nkept\n"


@pytest.mark.parametrize("name", CORTEX_M)
def test_linker_script_places_everything_inside_the_board(name: str) -> None:
    device = load_device(name)
    text = boards.linker_script(device, stack_bytes=1234)
    assert f"ORIGIN = {device.flash.usable_start:#010x}, LENGTH = {device.flash.usable_bytes:#x}" in text
    for region in device.arena_regions():
        assert f"ORIGIN = {region.usable_start:#010x}, LENGTH = {region.usable_bytes:#x}" in text
    assert ". = . + 0x4d8;" in text  # the stack, rounded up to 8
    assert [f".arena_{index} (NOLOAD)" in text for index in range(4)] == [index < len(device.arena_regions()) for index in range(4)]


def test_stack_stands_below_everything_else_and_arenas_in_their_region() -> None:
    device = load_device("stm32f405")
    symbols = load_elf(build("stm32f405", "probe")).symbols
    assert symbols["__stack_limit"].address == device.main_ram.usable_start
    assert symbols["__stack_top"].address - symbols["__stack_limit"].address == device.stack_bytes
    assert symbols["__stack_top"].address <= symbols["__data_start"].address <= symbols["__bss_start"].address
    assert symbols["__arena_0_start"].address >= symbols["__noinit_end"].address
    assert symbols["__arena_0_start"].address % 16 == 0
    assert symbols["__arena_1_start"].address == 0x1000_0000
    assert symbols["__flash_end"].address > device.flash.start


def test_program_leaves_the_bootloaders_flash_alone() -> None:
    lowest = min(segment.address for segment in load_elf(build("arduino-nano33ble", "echo")).segments)
    assert lowest == 65536


def crc32_mpeg2(data: bytes) -> int:
    """The CRC of the RP2040's boot ROM (datasheet 2.8.1.3.1): polynomial 04c11db7, most significant bit first, no final inversion."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        crc &= 0xFFFFFFFF
    return crc


def test_rp2040_boot2_is_what_its_assembly_says_and_has_its_crc(tmp_path: Path) -> None:
    assert crc32_mpeg2(b"123456789") == 0x0376E6E7
    image = image_of("rp2040", "echo")
    assert struct.unpack("<I", image[252:256])[0] == crc32_mpeg2(image[:252])
    source = boards.include_folders()[0] / "rp2040" / "boot2.s"
    made = tmp_path / "boot2.o"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi", "-mcpu=cortex_m0plus", "-c"]
    subprocess.run([*command, str(source), "-o", str(made)], check=True, capture_output=True)
    code = image[:252].rstrip(b"\0")
    assert len(code) == 64
    assert code in made.read_bytes()


def test_rp2040_vectors_follow_boot2() -> None:
    image = image_of("rp2040", "echo")
    stack, reset = struct.unpack_from("<II", image, 256)
    assert stack == 0x2000_0000 + load_device("rp2040").stack_bytes
    assert reset & 1
    assert reset < 0x1000_0000 + len(image)


def test_rp2350_image_definition_is_where_the_boot_rom_looks() -> None:
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)
    assert 0 < image_of("rp2350", "echo").find(block) <= 4096 - len(block)


def image_of(name: str, program: str) -> bytes:
    """The flash from its start."""
    board = emulate(name, program)
    return board.read(load_device(name).flash.start, 8192)


@pytest.mark.parametrize("name", ["esp32-c3", "esp32-s3"])
def test_boards_without_start_up_code_take_the_library(name: str) -> None:
    with pytest.raises(ToolError, match=rf"{name} .* takes the C library, not a ready firmware"):
        boards.sources(name)
    with pytest.raises(ToolError, match="takes the C library"):
        boards.linker_script(name)


def test_a_computer_takes_no_firmware() -> None:
    with pytest.raises(ToolError, match="rpi-5 runs Linux and takes no firmware; choose another backend: executorch"):
        boards.sources("rpi-5")


def test_a_board_without_uart_is_refused() -> None:
    whole = load_device("stm32f405")
    bare = Device(**{**{name: getattr(whole, name) for name in whole.__dataclass_fields__}, "links": ()})
    with pytest.raises(ToolError, match="stm32f405 has no link with a UART"):
        boards.defines(bare)


def test_defines_carry_clock_uart_and_the_files_own() -> None:
    assert boards.defines("stm32h7a3") == {
        "EMBARQ_CLOCK_HZ": "280000000u", "EMBARQ_UART_BASE": "0x40004800u", "EMBARQ_UART_BAUD": "115200u", "EMBARQ_H7A3": "1",
        "EMBARQ_FLASH_UNIT": "16u", "EMBARQ_FLASH_BASE": "0x8000000u", "EMBARQ_FLASH_SECTORS": "{8192u,256u}",
    }
    assert boards.defines("stm32f746")["EMBARQ_FLASH_SECTORS"] == "{32768u,4u},{131072u,1u},{262144u,3u}"
    assert boards.defines("mps2-an386")["EMBARQ_FLASH_UNIT"] == "4u" and "EMBARQ_FLASH_BASE" not in boards.defines("mps2-an386")
    assert boards.defines("stm32f405")["EMBARQ_UART_V1"] == "1"


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "stm32h743", "stm32h7a3"])
def test_clock_that_start_up_reaches_is_the_one_in_the_file(name: str) -> None:
    """A plan's latency rests on it."""
    device = load_device(name)
    board = emulate(name, "echo")
    board.run(max_instructions=1_000_000)
    found = int.from_bytes(board.read("board_core_clock_hz", 4), "little")
    assert found == device.core.clock_hz
