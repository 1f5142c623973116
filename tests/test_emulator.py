"""The emulated board: exact counts, exact memory map, faults that name their place, marks of what was used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulator import EmulatedBoard, EmulatorLink
from firmware_bridge.emulator import counter as counting
from firmware_bridge.emulator.counter import CYCLE_MODELS, count_code
from firmware_bridge.emulator.elf import load_elf
from firmware_bridge.emulator.uarts import UART_MODELS
from sdk.errors import BoardFault, ToolError, UsageError
from targets.device import Link, device_names, load_device
from tests.boards import build, hand_made_elf

F405 = load_device("stm32f405")
LIMIT = 2_000_000


def probe(name: str = "stm32f405", **options: object) -> EmulatedBoard:
    """A board with probe.c, started and waiting for commands."""
    board = EmulatedBoard(name, build(name, "probe"), **options)  # type: ignore[arg-type]
    assert board.run(max_instructions=LIMIT) == "idle"
    assert board.take() == b"ready\n"
    return board


def command(board: EmulatedBoard, letters: bytes) -> str:
    board.write(letters)
    return board.run(max_instructions=LIMIT)


# -- counting ----------------------------------------------------------------------------------------------------------

# Thumb code made by hand. 3 + 2n instructions: movw, movt, then n times subs and bne, then the branch to itself.
LOOP = bytes.fromhex("40f2e830") + bytes.fromhex("c0f20000") + bytes.fromhex("0138fdd1") + bytes.fromhex("fee7")  # r0 = 1000


def test_a_loop_counts_to_the_instruction() -> None:
    board = EmulatedBoard(F405, hand_made_elf(LOOP, F405))
    assert board.run(max_instructions=2 + 2 * 1000) == "limit"
    assert board.instructions == 2002
    assert board.run(max_instructions=10) == "limit"
    assert board.instructions == 2012


def test_a_block_cut_by_a_fault_counts_what_ran() -> None:
    # movs r0,#1; movs r1,#0; str r0,[r1] (nothing at 0); movs r2,#3
    board = EmulatedBoard(F405, hand_made_elf(bytes.fromhex("0120002108600322"), F405))
    with pytest.raises(BoardFault, match="it wrote 4 bytes at 0x00000000, where stm32f405 has nothing"):
        board.run()
    assert board.instructions == 2


def test_counts_do_not_depend_on_where_the_run_is_cut() -> None:
    whole, cut = (EmulatedBoard(F405, build("stm32f405", "work")) for _ in range(2))
    assert whole.run(max_instructions=10 * LIMIT) == "idle"
    while cut.run(max_instructions=9973) == "limit":
        pass
    assert cut.take() == whole.take()
    assert abs(cut.instructions - whole.instructions) < 200  # each waits for input a little


def test_functions_add_up_to_everything() -> None:
    board = probe()
    assert sum(cost.instructions for cost in board.functions()) == board.instructions
    assert sum(cost.cycles for cost in board.functions()) == board.cycles
    assert "board_uart_read" in [cost.name for cost in board.functions()[:4]]


def test_steps_get_what_ran_in_them() -> None:
    board = probe(step_names=("first", "second"))
    board.clear_counts()
    assert command(board, b"p") == "idle"
    steps = board.steps()
    assert [cost.name for cost in steps] == ["first", "second", "step 2"]
    one, two, three = (cost.instructions for cost in steps)
    assert one == pytest.approx(2 * 100, abs=8)  # exact to the block of instructions in which the variable changes
    assert two == pytest.approx(2 * 200, abs=8)
    assert three == pytest.approx(2 * 300, abs=8)
    assert one + two + three < board.instructions
    assert all(cost.cycles >= cost.instructions for cost in steps)


def test_without_a_step_variable_there_are_no_steps() -> None:
    board = EmulatedBoard(F405, build("stm32f405", "echo"))
    board.run(max_instructions=LIMIT)
    assert board.steps() == []


def test_ticks_count_instructions_or_cycles() -> None:
    def loop_ticks(ticks: str) -> int:
        board = EmulatedBoard(F405, build("stm32f405", "work"), ticks=ticks)
        board.run(max_instructions=10 * LIMIT)
        lines = [line.split() for line in board.take().decode().splitlines()]
        return max(int(line[2], 16) for line in lines if line[0] == "loop")

    assert loop_ticks("instructions") == pytest.approx(2 * 200_000, abs=20)
    assert loop_ticks("cycles") == pytest.approx(4 * 200_000, abs=40)  # subs 1, bne taken 3
    with pytest.raises(UsageError, match='ticks is "hours"'):
        EmulatedBoard(F405, build("stm32f405", "work"), ticks="hours")


# Encodings by GNU as. Cycles by the Cortex-M4's technical reference manual.
CYCLES = [
    ("0168", 2, "ldr r1,[r0]"),
    ("01680268", 3, "ldr twice: the second is pipelined"),
    ("0160", 1, "str"),
    ("d0f82c11", 2, "ldr.w"),
    ("d0e90023", 3, "ldrd"),
    ("1ec8", 5, "ldmia of four"),
    ("90e80e01", 5, "ldmia.w of four"),
    ("30b5", 4, "push of three"),
    ("4843", 1, "muls"),
    ("21fb0230", 1, "smlad"),
    ("c2fb0301", 1, "smlal"),
    ("91fbf2f0", 7, "sdiv"),
    ("90ed000a", 2, "vldr"),
    ("b0ec080a", 9, "vldmia of eight"),
    ("30ee810a", 1, "vadd.f32"),
    ("00ee810a", 3, "vmla.f32"),
    ("a0ee810a", 3, "vfma.f32"),
    ("80ee810a", 14, "vdiv.f32"),
    ("b1eee00a", 14, "vsqrt.f32"),
    ("bdeee00a", 1, "vcvt"),
    ("00ee100a", 1, "vmov s0,r0"),
    ("51ec110a", 2, "vmov r0,r1,s2,s3"),
    ("2ded048a", 5, "vpush of four"),
]


@pytest.mark.parametrize(("code", "cycles", "what"), CYCLES)
def test_cycles_of_each_class(code: str, cycles: int, what: str) -> None:
    halves = bytes.fromhex(code)
    expected = 2 if "twice" in what else 1
    assert count_code("cortex-m4", halves) == (expected, cycles)


def test_a_block_of_dual_macs_costs_what_the_manual_says() -> None:
    """Two LDM of four words and eight SMLAD: sixteen multiplications in eighteen cycles."""
    assert count_code("cortex-m4", bytes.fromhex("1ec8" * 2 + "21fb0230" * 8)) == (10, 18)


def test_every_emulated_core_has_a_cycle_model() -> None:
    for name in device_names():
        if load_device(name).family:
            assert load_device(name).as_emulated().core.name in CYCLE_MODELS
            assert load_device(name).core.name in CYCLE_MODELS


@given(code=st.binary(min_size=0, max_size=64))
def test_decoding_never_counts_more_than_halfwords(code: bytes) -> None:
    instructions, cycles = count_code("cortex-m4", code)
    assert len(code) // 4 <= instructions <= len(code) // 2
    assert cycles >= instructions


# -- faults ------------------------------------------------------------------------------------------------------------

FAULTS = [
    (b"w", r"stm32f405 crashed at 0x080\w+ in stray_write\+0x\w+, .*in the big layer: it wrote 4 bytes at 0xa0001234, where stm32f405 has nothing\."),
    (b"r", r"in stray_read\+0x\w+.*: it read 1 bytes at 0xa0001235, where stm32f405 has nothing\."),
    (b"f", r"in flash_write\+0x\w+.*: it wrote 4 bytes at 0x080\w+, which is flash\."),
    (b"j", r"crashed at 0x90000000.*: it jumped to 0x90000000, where no code can be\."),
    (b"d", r"crashed at 0x2000\w+.*: it jumped to 0x2000\w+, where no code can be\."),
    (b"u", r"in \w+\+0x\w+.*: the instruction there is not one that a cortex-m4 has\."),
    (b"v", r": it raised an exception that nothing handles"),
    (b"S", r"in deep\+0x\w+.*: the stack overflowed its 4096 bytes \(access to 0x1fff\w+\); give it more\."),
]


@pytest.mark.parametrize(("letter", "said"), FAULTS)
def test_a_crash_says_what_and_where(letter: bytes, said: str) -> None:
    board = probe(step_names=("small layer", "the big layer"))
    with pytest.raises(BoardFault, match=said) as caught:
        command(board, letter)
    assert "\n" not in str(caught.value)


def test_the_fpu_is_off_until_start_up_turns_it_on() -> None:
    code = bytes.fromhex("b7ee000a" + "fee7")  # vmov.f32 s0, #1.0
    board = EmulatedBoard(F405, hand_made_elf(code, F405))
    with pytest.raises(BoardFault, match="crashed at 0x08000040: the FPU was used before CPACR switched it on"):
        board.run()


def test_helium_on_a_board_that_cannot_emulate_it() -> None:
    device = load_device("mps3-an547")
    board = EmulatedBoard(device, hand_made_elf(bytes.fromhex("00ef4008"), device))  # vadd.i8 q0, q0, q0
    with pytest.raises(BoardFault, match=r"the emulated core, a cortex-m33 without mve, lacks the instruction there; build for as_emulated\(\)"):
        board.run()


# -- running, memory, marks --------------------------------------------------------------------------------------------


def test_run_ends_for_the_reason_it_says() -> None:
    board = probe()
    assert board.run(max_instructions=LIMIT) == "idle"
    assert command(board, b"z") == "sleep"
    assert board.run(max_instructions=LIMIT) == "idle"
    assert board.run(max_instructions=0) == "limit"
    before = board.instructions
    assert board.run(until=lambda: board.instructions >= before) == "until"


def test_stack_mark_follows_the_depth() -> None:
    board = probe()
    shallow = board.stack_peak_bytes()
    command(board, b"s")
    deep = board.stack_peak_bytes()
    assert 8 * 64 < deep - shallow < 2048
    board.paint_stack()
    assert board.stack_peak_bytes() < deep
    command(board, b"s")
    assert board.stack_peak_bytes() == deep


def test_arena_mark_is_exact() -> None:
    board = probe(watch=True)
    assert board.arena_peak_bytes() == (0, 0)
    command(board, b"a")
    assert board.arena_peak_bytes() == (700, 0)
    with pytest.raises(UsageError, match="watch=True"):
        probe().arena_peak_bytes()


def test_memory_is_read_by_symbol_and_address() -> None:
    board = probe()
    assert board.read("initialised") == (0x12345678).to_bytes(4, "little")
    assert board.read(board.symbol("initialised").address, 2) == b"\x78\x56"
    board.poke("initialised", b"\0\0\0\0")
    command(board, b"i")
    assert board.take() == b"bad\n"
    with pytest.raises(UsageError, match="has no symbol absent; build it with symbols"):
        board.read("absent")
    with pytest.raises(UsageError, match="has no memory of 4 bytes at 0xa0000000"):
        board.read(0xa0000000, 4)


def test_memory_may_lie_across_two_banks() -> None:
    board = probe()
    board.poke(0x2001_BFFE, b"abcd")  # SRAM1 ends at 0x2001C000
    assert board.read(0x2001_BFFE, 4) == b"abcd"


def test_a_firmware_for_another_board_is_refused() -> None:
    with pytest.raises(UsageError, match="outside the flash of stm32f405"):
        EmulatedBoard("stm32f405", build("nrf52840", "echo"))
    with pytest.raises(UsageError, match=r"esp32-c3 cannot be emulated"):
        EmulatedBoard("esp32-c3", build("stm32f405", "echo"))


def test_every_uart_model_belongs_to_a_shipped_board() -> None:
    used = {link.uart for name in device_names() for link in load_device(name).links if link.uart}
    assert used == set(UART_MODELS)


def test_an_unknown_uart_is_refused() -> None:
    whole = {name: getattr(F405, name) for name in F405.__dataclass_fields__}
    odd = type(F405)(**{**whole, "links": (Link("uart", "serial", uart="8250", base=0x4001_1000),)})
    with pytest.raises(UsageError, match='a UART of the model "8250"; known are stm32-usart-v1'):
        EmulatedBoard(odd, build("stm32f405", "echo"))


# -- the link ----------------------------------------------------------------------------------------------------------


def test_the_link_carries_bytes_both_ways() -> None:
    link = EmulatorLink(EmulatedBoard("nrf52840", build("nrf52840", "echo")))
    assert link.read(100, 5.0) == b"hello\n"
    link.write(b"0123456789")
    received = b""
    while len(received) < 10:
        piece = link.read(4, 5.0)
        assert 0 < len(piece) <= 4
        received += piece
    assert received == b"0123456789"
    assert link.read(100, 5.0) == b""  # it waits for input: nothing can come
    link.close()
    assert link.read(100, 5.0) == b""


def test_the_link_gives_up_on_a_board_that_computes() -> None:
    link = EmulatorLink(EmulatedBoard(F405, hand_made_elf(bytes.fromhex("fee7"), F405)))  # a branch to itself
    assert link.read(1, 0.0) == b""


def test_the_link_reports_a_crash() -> None:
    link = EmulatorLink(probe())
    link.write(b"r")
    with pytest.raises(BoardFault, match="stray_read"):
        link.read(1, 5.0)


# -- files and tools that are not as they should be --------------------------------------------------------------------


def test_an_elf_that_is_something_else() -> None:
    for data in (b"", b"MZ", b"\x7fELF\x02\x01" + bytes(60)):
        with pytest.raises(UsageError, match="is not a 32-bit ARM ELF file"):
            load_elf(data)
    with pytest.raises(UsageError, match=r"The firmware .*absent.elf cannot be read"):
        load_elf(Path("/absent.elf"))


@given(data=st.data())
def test_a_damaged_elf_is_refused_or_read(data: st.DataObject) -> None:
    whole = build("stm32f405", "probe").read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole[:cut] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, min(len(broken), 4096) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_elf(bytes(broken))
    except UsageError as error:
        assert "ELF" in str(error)


def without(monkeypatch: pytest.MonkeyPatch, module: str, then: Callable[[], object]) -> object:
    for name in [name for name in sys.modules if name == module or name.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "firmware_bridge.emulator.unicorn_api", raising=False)
    monkeypatch.delattr("firmware_bridge.emulator.unicorn_api", raising=False)
    return then()


def test_without_unicorn_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    elf = build("stm32f405", "echo")
    with pytest.raises(ToolError, match=r'needs unicorn, which is not installed; pip install "embarq\[firmware\]"'):
        without(monkeypatch, "unicorn", lambda: EmulatedBoard("stm32f405", elf))


def test_without_a_compiler_the_mend_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(counting, "_cache_folder", lambda: tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    counting.library.cache_clear()
    try:
        with pytest.raises(ToolError, match=r'pip install "embarq\[firmware\]"'):
            counting.library()
    finally:
        counting.library.cache_clear()
    assert list(tmp_path.iterdir()) == []
