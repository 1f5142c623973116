"""Trained values in flash: two copies, every byte of them, a power cut at every single operation, on every family of boards."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.emulator.flash import FlashArray
from firmware_bridge.session import BoardSession
from firmware_bridge.smp import Refused
from sdk.errors import BoardFault, LinkError, UsageError
from targets.boards import linker_script
from targets.device import device_names, load_device
from targets.store import FLASH_FAMILIES, plan_store, program_unit, slot_bytes, store_bytes
from tests.bridge.firmware import LEARNER_BYTES, build
from tests.bridge.learning import ID, LearnerLink, Reference, emulated, samples, values

EVERYDAY = ("stm32f405", "rp2040")
OTHERS = ("stm32f746", "stm32h743", "stm32h7a3", "stm32l4r5", "nrf52840", "nrf5340", "rp2350")
BOARDS = [*EVERYDAY, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)]
X, Y = samples(8)


def train(board: BoardSession, first: int, count: int = 1) -> None:
    board.train_start(0.25)
    for k in range(count):
        board.train_step(k + 1, int(Y[first + k]), X[first + k].tobytes())


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


# -- the C half on this computer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("buffer", "unit"), [(256, 4), (512, 8), (520, 16), (700, 32), (512, 256), (264, 256)])
def test_every_byte_of_a_slot(buffer: int, unit: int) -> None:
    link = LearnerLink(buffer, unit)
    board = BoardSession(link)
    train(board, 0, 3)
    assert board.commit().sequence == 1
    content = b"".join(board.read_variable(i) for i in range(3))
    start, padded = max(64, unit), -(-len(content) // unit) * unit
    head = struct.pack("<5I32s2I", 0x57424D45, 1, 1, len(content), zlib.crc32(content), ID, 0, 0)
    header = head + struct.pack("<I", zlib.crc32(head))
    wanted = header + b"\xff" * (start - 64) + content + b"\xff" * (1024 - start - len(content))
    assert link.flash(0, 1024) == wanted and link.flash(1, 1024) == b"\xff" * 1024
    assert link.operations == 1 + start // unit + padded // unit


def test_copies_take_turns_and_the_newest_one_counts() -> None:
    link = LearnerLink()
    board = BoardSession(link)
    for k in range(4):
        train(board, k)
        assert board.commit().sequence == k + 1
        assert struct.unpack("<I", link.flash(k % 2, 12)[8:]) == (k + 1,)
    before = values(board)
    link.start()
    assert same(values(board), before) and board.train_info().sequence == 4


def test_a_commit_with_nothing_new_writes_nothing() -> None:
    link = LearnerLink()
    board = BoardSession(link)
    assert board.commit().sequence == 0 and link.operations == 0
    train(board, 0)
    board.commit()
    done = link.operations
    assert board.commit().sequence == 1 and link.operations == done


@pytest.mark.parametrize("unit", [4, 32, 256])
def test_the_power_may_go_at_any_operation(unit: int) -> None:
    """Two copies stand, a third is being made: whatever happens, the second or the third is what the board has afterwards."""
    whole = LearnerLink(unit=unit)
    board = BoardSession(whole)
    for k in range(2):
        train(board, k)
        board.commit()
    second = values(board)
    train(board, 2)
    third, before = values(board), whole.operations
    board.commit()
    count, seen = whole.operations - before, set()
    assert count == 1 + max(64, unit) // unit + -(-LEARNER_BYTES // unit)
    for n in range(count + 1):
        link = LearnerLink(unit=unit)
        board = BoardSession(link)
        for k in range(2):
            train(board, k)
            board.commit()
        train(board, 2)
        link.cut(n, noise=n)
        if n < count:
            with pytest.raises(LinkError):
                board.commit()
            assert link.dead
        else:
            board.commit()
        link.start()
        sequence = board.train_info().sequence
        assert sequence == (3 if n == count else 2) or n == count - 1  # the very last unit may have been cut after its last bit
        assert same(values(board), third if sequence == 3 else second)
        train(board, 3)
        board.commit()  # and the next copy is made as if nothing had been
        after = values(board)
        link.start()
        assert same(values(board), after)
        seen.add(sequence)
    assert seen == {2, 3}


def test_the_power_may_go_while_everything_is_erased() -> None:
    for n in range(3):
        link = LearnerLink()
        board = BoardSession(link)
        first = values(board)
        for k in range(2):
            train(board, k)
            board.commit()
        newest = values(board)
        link.cut(n)
        if n < 2:
            with pytest.raises(LinkError):
                board.forget(everything=True)
        else:
            board.forget(everything=True)
        link.start()
        assert same(values(board), newest if board.train_info().sequence else first)
        assert board.train_info().sequence in ((2,) if n == 0 else (0, 2))


@given(slot=st.integers(0, 1), at=st.integers(0, 64 + LEARNER_BYTES - 1))
@settings(max_examples=60, deadline=None)
def test_a_changed_bit_anywhere_makes_the_other_copy_count(slot: int, at: int) -> None:
    link = LearnerLink()
    board = BoardSession(link)
    copies = []
    for k in range(2):
        train(board, k)
        board.commit()
        copies.append(values(board))
    link.spoil(slot, at)
    link.start()
    assert board.train_info().sequence == 2 - slot
    assert same(values(board), copies[1 - slot])


def test_with_both_copies_spoiled_the_firmware_values_count() -> None:
    link = LearnerLink()
    board = BoardSession(link)
    first = values(board)
    for k in range(2):
        train(board, k)
        board.commit()
        link.spoil(k, 100)
    link.start()
    assert board.train_info().sequence == 0 and same(values(board), first)


def test_the_number_of_a_copy_may_wrap() -> None:
    link = LearnerLink()
    board = BoardSession(link)
    train(board, 0)
    board.commit()
    head = bytearray(link.flash(0, 60))
    head[8:12] = struct.pack("<I", 0xFFFFFFFF)
    for i, byte in enumerate(bytes(head) + struct.pack("<I", zlib.crc32(bytes(head)))):
        link.board.flash_bytes(0)[i] = byte
    link.start()
    train(board, 1)
    assert board.commit().sequence == 1  # 0 means none
    newest = values(board)
    link.start()
    assert board.train_info().sequence == 1 and same(values(board), newest)


def test_a_copy_of_another_model_is_left_alone() -> None:
    link = LearnerLink()
    board = BoardSession(link)
    first = values(board)
    train(board, 0)
    board.commit()
    head = bytearray(link.flash(0, 60))
    head[20] ^= 1  # another plan's id, else whole
    for i, byte in enumerate(bytes(head) + struct.pack("<I", zlib.crc32(bytes(head)))):
        link.board.flash_bytes(0)[i] = byte
    link.start()
    assert board.train_info().sequence == 0 and same(values(board), first)


@pytest.mark.parametrize("sizes", [{"slot_bytes": 0}, {"slot_bytes": 512}, {"buffer_size": 256, "unit": 256}])
def test_without_room_in_flash_everything_but_commit_works(sizes: dict[str, int]) -> None:
    link = LearnerLink(**sizes)
    board = BoardSession(link)
    assert not board.train_info().can_commit
    train(board, 0, 3)
    with pytest.raises(Refused, match=r"refused Commit: there is no flash set aside that this board can write; pull the trained values"):
        board.commit()
    assert link.operations == 0 and board.train_info().changed
    board.forget(everything=True)
    assert same(values(board)[1:2], [np.float32([0.25, -0.5, 0.125])])


# -- where the copies stand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in device_names() if load_device(n).kind == "mcu" and load_device(n).family])
def test_slots_are_whole_erase_units_that_nothing_else_uses(name: str) -> None:
    device = load_device(name)
    for size in (1, 500, 10_000, 60_000):
        store = plan_store(device, size)
        if device.family not in FLASH_FAMILIES:
            assert store is None and store_bytes(device, size) == 0
            continue
        assert store is not None
        edges, at = set(), device.flash.start
        for unit, count in device.flash.sectors:
            edges |= set(range(at, at + unit * count + 1, unit))
            at += unit * count
        (a, a_size), (b, b_size) = store.slots
        assert {a, a + a_size, b, b + b_size, store.code_start, store.code_end} <= edges
        assert min(a_size, b_size) >= slot_bytes(device, size) and slot_bytes(device, size) % program_unit(device) == 0
        assert a + a_size <= b and b + b_size <= device.flash.end and a >= device.flash.usable_start + (store.apart and device.flash.sectors[0][0])
        assert store.code_end <= a or store.code_start >= b + b_size
        assert store.lost_bytes == device.flash.usable_bytes - (store.code_end - store.code_start)
        assert store_bytes(device, size) == store.lost_bytes
        assert f"__store_0_start = {a:#010x}; __store_0_end = {a + a_size:#010x}" in linker_script(device, variable_bytes=size)
    assert plan_store(device, 0) is None and "__store_0_start = 0x00000000" in linker_script(device)


def test_small_sectors_in_front_are_taken_before_large_ones_at_the_end() -> None:
    assert store_bytes("stm32f746", 16_000) == 3 * 32768  # at the end it would be 2 * 262144
    assert store_bytes("stm32f405", 16_000) == 3 * 16384
    assert store_bytes("stm32f405", 60_000) == 2 * 131072


def test_values_larger_than_the_flash_are_refused() -> None:
    with pytest.raises(UsageError, match=r"two copies of 600000 trained bytes do not fit into the 1048576 bytes of flash of stm32f405; train fewer"):
        plan_store("stm32f405", 600_000)
    assert store_bytes("stm32f405", 600_000) > load_device("stm32f405").flash.size_bytes  # a plan says so, and does not raise


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_what_learning_takes_is_measured_for_every_board(compiler: str) -> None:
    from sdk.planner.measured import footprint

    for name in (n for n in device_names() if load_device(n).family):
        with_it, without = (footprint(load_device(name), compiler, [], learns=learns) for learns in (True, False))
        assert not with_it.estimated, f"{name}: run make measure"
        assert 2000 < with_it.text - without.text < 6000 and 200 < with_it.stack - without.stack < 1000
        assert with_it.bss > without.bss and with_it.rodata > without.rodata


# -- on emulated boards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stride"), [("rp2040", 1), ("stm32f405", 12), *(pytest.param(n, 1, marks=pytest.mark.long) for n in ("stm32f405", *OTHERS))]
)
def test_the_power_goes_at_every_operation_of_a_commit(name: str, stride: int) -> None:
    board, session = emulated(name)
    train(session, 0)
    session.commit()
    train(session, 1)
    old, start = values(session), board.flash.operations
    session.commit()
    count = board.flash.operations - start
    reference = Reference()
    for k in range(2):
        reference.step(X[k], int(Y[k]), 0.25)
    assert all(np.allclose(a, b.ravel(), rtol=1e-5, atol=1e-6) for a, b in zip(old, reference.values(), strict=True))
    kept = 2
    for n in range(0, count, stride):
        train(session, n % 8)
        new = values(session)
        board.cut_power_after(n)
        with pytest.raises(LinkError):
            session.commit()
        assert board.run() == "off"
        board.power_on()
        sequence = session.train_info().sequence
        assert sequence == kept or n == count - 1
        assert same(values(session), old if sequence == kept else new)
    train(session, 3)
    new = values(session)
    assert session.commit().sequence > kept
    board.power_on()
    assert same(values(session), new)


@pytest.mark.parametrize("name", BOARDS)
def test_a_reset_keeps_what_was_committed_and_drops_the_rest(name: str) -> None:
    _, session = emulated(name)
    train(session, 0, 2)
    session.commit()
    kept = values(session)
    train(session, 2)
    session.reset()
    assert same(values(session), kept) and session.train_info().sequence == 1
    session.forget(everything=True)
    assert session.train_info().sequence == 0 and values(session)[2] == 0


@pytest.mark.parametrize("name", ["stm32f405", *(pytest.param(n, marks=pytest.mark.long) for n in ("stm32f746", "stm32h743", "stm32l4r5"))])
def test_write_protected_flash_is_told_and_the_copy_before_stands(name: str) -> None:
    board, session = emulated(name)
    train(session, 0)
    session.commit()
    kept = values(session)
    board.flash.write_protected |= set(range(sum(count for _, count in board.device.flash.sectors)))
    train(session, 1)
    with pytest.raises(Refused, match="refused Commit: the flash does not keep what is written, and the copy before still stands"):
        session.commit()
    board.power_on()
    assert same(values(session), kept)


def test_a_store_to_flash_without_the_controller_is_a_crash() -> None:
    board, session = emulated("stm32f405")
    session.train_info()
    flash = board.device.flash
    access = (flash.start + 0x4000, 4, 0)
    assert not board._power.accepts(board._api.UC_MEM_WRITE_PROT, access)
    board._bus.store(0x40023C10, 1)  # PG while locked: stays as it was
    assert board._bus.load(0x40023C10) == 1 << 31
    board._bus.store(0x40023C04, 0x45670123)
    board._bus.store(0x40023C04, 0x12345678)  # a wrong key: locked until the next reset
    for key in (0x45670123, 0xCDEF89AB):
        board._bus.store(0x40023C04, key)
    board._bus.store(0x40023C10, 1)
    assert board._bus.load(0x40023C10) == 1 << 31 and not board._power.accepts(board._api.UC_MEM_WRITE_PROT, access)
    train(session, 0)
    with pytest.raises(Refused, match="the flash does not keep"):
        session.commit()
    session.reset()
    train(session, 0)
    assert session.commit().sequence == 1


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) for n in ("stm32h743", "stm32l4r5")])
def test_flash_that_checks_its_words_is_read_with_care(name: str) -> None:
    """The driver's read takes the error of damaged words; without what it prepares, the same read is a crash."""
    board, session = emulated(name)
    train(session, 0)
    board.cut_power_after(0)
    with pytest.raises(LinkError):
        session.commit()
    assert board.flash.damaged
    board.power_on()
    assert session.train_info().sequence == 0
    board._power.controller.damage_read = lambda: False  # type: ignore[union-attr, method-assign]
    board.reset()
    with pytest.raises(BoardFault, match=f"{name} crashed at .*: it read flash at 0x08.* that a cut of the power left damaged; read it with board_flash_read"):
        board.run(max_instructions=10_000_000)


@pytest.mark.parametrize(("name", "compiler"), [pytest.param(n, "gcc", marks=pytest.mark.long) for n in ("stm32f405", "rp2040")])
def test_the_other_compiler_makes_the_same_of_it(name: str, compiler: str) -> None:
    import shutil

    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    board, session = emulated(name, compiler)
    train(session, 0, 2)
    session.commit()
    kept = values(session)
    board.power_on()
    assert same(values(session), kept)


def test_a_model_that_does_not_learn_is_linked_without_any_of_it(tmp_path) -> None:
    from sdk.backends.firmware import images
    from tests.bridge.firmware import learner

    names = ("embarq_training_group", "embarq_training_begin", "embarq_store_commit", "board_flash_erase", "board_flash_program", "board_flash_read")
    plain, learning = images.symbols(build("stm32f405", tmp_path)), images.symbols(learner("stm32f405"))
    assert not [name for name in names if name in plain] and all(name in learning for name in names)


def test_a_board_without_a_driver_learns_and_refuses_to_commit(tmp_path) -> None:
    board, session = emulated("mps2-an386")
    train(session, 0)
    with pytest.raises(Refused, match="there is no flash set aside"):
        session.commit()
    assert session.train_info().changed and board.flash.operations == 0


@pytest.mark.long
def test_without_slots_in_the_linker_script_nothing_is_ever_written(tmp_path) -> None:
    board, session = emulated("stm32f405", elf=build("stm32f405", tmp_path, learner=True, keep=False))
    train(session, 0)
    assert not session.train_info().can_commit
    with pytest.raises(Refused, match="there is no flash set aside"):
        session.commit()
    assert board.flash.operations == 0


# -- the cells -----------------------------------------------------------------------------------------------------------------


def test_cells_lose_ones_until_they_are_erased() -> None:
    from firmware_bridge.emulator.memory import BoardMemory

    device, lost = load_device("stm32f405"), []
    memory = BoardMemory(device)
    cells = FlashArray(device, memory, lambda: lost.append(1), checked=True)
    start = device.flash.start + 0x4000
    memory.write(device.flash.start, b"\xff" * device.flash.size_bytes)
    assert cells.program(start, b"\x0f\xf0") and cells.program(start, b"\x33\x33") and memory.read(start, 2) == b"\x03\x30"
    assert cells.erase(start + 100) and memory.read(start, 2) == b"\xff\xff" and cells.operations == 3
    cells.cut_after(1)
    assert cells.program(start, bytes(4)) and not lost
    cells.program(start + 4, bytes(64))
    assert lost == [1] and memory.read(start, 4) == bytes(4) and memory.read(start + 4, 64) not in (bytes(64), b"\xff" * 64)
    cells.program(start + 80, bytes(4))
    cells.erase(start)
    assert memory.read(start + 80, 4) == b"\xff" * 4 and memory.read(start, 4) == bytes(4) and cells.is_damaged(start + 10, 1)
    cells.power_on()
    assert cells.erase(start) and not cells.damaged
    cells.write_protected.add(1)
    assert not cells.erase(start) and not cells.program(start, bytes(4))
