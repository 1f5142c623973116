"""The emulated board against QEMU: the same bytes on the UART, the same number of executed instructions."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from firmware_bridge.emulator import EmulatedBoard, EmulatorLink
from firmware_bridge.emulator.elf import load_elf
from targets.device import device_names, load_device
from tests.boards import build
from tests.data import shared
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


# -- crashes: what the board itself notes down, which the emulated board never gets to ---------------------------------


def crash(machine: Qemu, elf: Path, letter: bytes) -> dict[str, int]:
    """embarq_fault after a command that crashes."""
    names = ("magic", "pc", "lr", "psr", "sp", "exception", "cfsr", "address")
    machine.read_until(b"ready\n")
    machine.write(letter)
    place = load_elf(elf).symbols["embarq_fault"].address
    for _ in range(100):
        record = dict(zip(names, machine.memory(place, len(names)), strict=True))
        if record["magic"] == 0x544C4146:
            return record
        time.sleep(0.05)
    raise AssertionError(f"no fault record: {record}")


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", ["netduinoplus2", "mps2-an500"])
def test_a_crash_leaves_its_record(name: str, compiler: str) -> None:
    elf = build(name, "probe", compiler)
    with Qemu(name, elf, icount=False) as machine:
        record = crash(machine, elf, b"r")
    function = load_elf(elf).function_at(record["pc"])
    assert function is not None
    assert function.name == "stray_read"
    assert record["address"] == 0xa0001235
    assert record["exception"] == 3
    assert record["cfsr"] & (1 << 9), "a precise bus error"


def test_a_stack_overflow_leaves_its_record() -> None:
    elf = build("netduinoplus2", "probe")
    with Qemu("netduinoplus2", elf, icount=False) as machine:
        record = crash(machine, elf, b"S")
    assert record["sp"] < load_elf(elf).symbols["__stack_limit"].address
    assert record["pc"] == 0


# -- real models -------------------------------------------------------------------------------------------------------


def compare_model(name: str, model: str) -> None:
    """One inference, layer by layer: the same output bytes and the same instructions in every layer."""
    import sdk
    from firmware_bridge.session import BoardSession

    artifact = sdk.compile(sdk.plan(name, sdk.load(shared(f"mlperf_tiny/models/{model}.tflite"))))
    inputs = [array.tobytes() for array in artifact.golden.inputs[0]]
    board = BoardSession(EmulatorLink(EmulatedBoard(artifact.device.as_emulated(), artifact.elf())))
    per_instruction = board.info().ticks_hz * 2 ** load_device(name).emulator.qemu_icount_shift / 1e9
    ours = board.run(*inputs).outputs, board.profile(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        elf = Path(folder) / "model.elf"
        elf.write_bytes(artifact.elf())
        with Qemu(name, elf) as machine:
            other = BoardSession(machine)
            theirs = other.run(*inputs).outputs, other.profile(*inputs)
    assert ours[0] == theirs[0]
    for mine, its in zip(ours[1], theirs[1], strict=True):
        assert mine == pytest.approx(its, rel=1e-3, abs=BLOCK * per_instruction)
    assert sum(ours[1]) == pytest.approx(sum(theirs[1]), rel=1e-4)


def test_a_real_model_takes_the_same_instructions() -> None:
    compare_model("netduinoplus2", "kws01_dscnn_int8")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "model"),
    [("mps2-an386", "ic01_resnet8_int8"), ("mps2-an500", "vww01_mbv1_025_int8"), ("mps3-an547", "ad01_autoencoder_int8")],
)
def test_real_models_take_the_same_instructions(name: str, model: str) -> None:
    compare_model(name, model)


def test_echo_through_qemus_uart() -> None:
    with Qemu("mps2-an386", build("mps2-an386", "echo")) as machine:
        assert machine.read_until(b"hello\n") == b"hello\n"
        message = bytes(range(256))
        machine.write(message)
        assert machine.read_until(message) == message
