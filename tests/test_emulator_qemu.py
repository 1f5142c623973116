"""The emulated board against QEMU: the same bytes on the UART, the same number of executed instructions."""

from __future__ import annotations

import pytest

from firmware_bridge.emulator import EmulatedBoard
from targets.device import device_names, load_device
from tests.boards import build
from tests.qemu import Qemu

MACHINES = [name for name in device_names() if (emulator := load_device(name).emulator) and emulator.qemu_machine]
BLOCK = 8  # a reading of a counter is exact to the block of instructions it stands in

pytestmark = pytest.mark.qemu


def rows(text: bytes) -> list[tuple[str, int, int]]:
    """(name, result, ticks) of each line of work.c, "hz" first."""
    lines = [line.split() for line in text.decode().splitlines() if line and line != "end"]
    return [(line[0], int(line[1], 16), int(line[-1], 16)) for line in lines]


def compare(name: str, compiler: str) -> None:
    elf = build(name, "work", compiler)
    board = EmulatedBoard(load_device(name).as_emulated(), elf)
    assert board.run(max_instructions=10_000_000) == "idle"
    ours = rows(board.take())
    with Qemu(name, elf) as machine:
        theirs = rows(machine.read_until(b"end\n"))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    per_instruction = ours[0][1] * 2 ** load_device(name).emulator.qemu_icount_shift / 1e9
    for (work, _, our_ticks), (_, _, their_ticks) in zip(ours[1:], theirs[1:], strict=True):
        assert our_ticks == pytest.approx(their_ticks, rel=1e-3, abs=BLOCK * per_instruction), work
    loops = [ticks / per_instruction for work, _, ticks in ours if work == "loop"]
    assert loops[1] - loops[0] == pytest.approx(2 * (200_000 - 1000), rel=1e-5)


@pytest.mark.parametrize("name", ["netduinoplus2", "mps2-an500"])
def test_same_bytes_and_instruction_counts(name: str) -> None:
    compare(name, "zig")


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", MACHINES)
def test_same_on_every_machine_and_compiler(name: str, compiler: str) -> None:
    compare(name, compiler)


def test_echo_through_qemus_uart() -> None:
    with Qemu("mps2-an386", build("mps2-an386", "echo")) as machine:
        assert machine.read_until(b"hello\n") == b"hello\n"
        message = bytes(range(256))
        machine.write(message)
        assert machine.read_until(message) == message
