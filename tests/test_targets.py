"""Device files: every shipped one is complete and sane; a wrong one gets one sentence with the mend."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import targets.device
from sdk.errors import DeviceFileError, UsageError
from targets.device import Core, Device, Memory, device_names, load_device, shipped_path

README = Path(targets.device.__file__).with_name("README.md")
PARTIAL, WHOLE, MEASURED = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
SHIPPED = [name for name in device_names() if name != "host"]

# What a board is known to have: flash bytes, then the bytes of each region for tensors, most liked first.
KNOWN = {
    "stm32f405": (1 << 20, [131072, 65536]),
    "stm32f746": (1 << 20, [327680]),
    "stm32h743": (2 << 20, [131072, 524288, 294912, 65536]),
    "stm32h7a3": (2 << 20, [131072, 1048576, 131072, 32768]),
    "stm32l4r5": (2 << 20, [655360]),
    "nrf52840": (1 << 20, [262144]),
    "nrf5340": (1 << 20, [524288]),
    "arduino-nano33ble": (983040, [262144]),
    "rp2040": (2 << 20, [270336]),
    "rp2350": (4 << 20, [532480]),
    "esp32-s3": (8 << 20, [327680]),
    "esp32-c3": (4 << 20, [327680]),
    "corstone-300": (512 << 10, [524288, 2097152]),
    "netduinoplus2": (1 << 20, [131072]),
    "mps2-an386": (4 << 20, [4 << 20]),
    "mps2-an500": (4 << 20, [4 << 20]),
    "mps3-an547": (512 << 10, [524288, 2097152]),
}
LINUX = ("rpi-zero2w", "rpi-3b+", "rpi-4b", "rpi-5", "jetson-nano", "jetson-orin-nano", "jetson-agx-orin", "host")


def write(folder: Path, text: str, name: str = "myboard.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_devices_are_these() -> None:
    assert sorted(device_names()) == sorted([*KNOWN, *LINUX])


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_file_is_complete(name: str) -> None:
    device = load_device(name)
    assert device.name == name == shipped_path(name).stem
    assert device.title
    assert device.kind == ("linux" if name in LINUX else "mcu")
    assert device.facts
    own = shipped_path(name).name
    assert [path for path, fact in device.facts.items() if own in fact.source] == [], "a number without a source"
    assert all(len(text) >= 15 for text in device.sources.values())
    assert device.core.clock_hz == 0 or 10**6 < device.core.clock_hz < 10**10
    assert 1 <= len(device.arena_regions()) <= 4
    assert sum(region.usable_bytes for region in device.arena_regions()) >= 64 << 10


@pytest.mark.parametrize("name", SHIPPED)
def test_confirmed_numbers_have_a_source_and_others_are_told(name: str) -> None:
    device = load_device(name)
    for path, fact in device.facts.items():
        assert fact.confirmed == (fact.source != "NONE"), path


@pytest.mark.parametrize("name", KNOWN)
def test_memory_of_each_board(name: str) -> None:
    device = load_device(name)
    flash_bytes, regions = KNOWN[name]
    assert device.flash.usable_bytes == flash_bytes
    assert [region.usable_bytes for region in device.arena_regions()] == regions
    assert device.main_ram in device.arena_regions()


def test_names_and_aliases_lead_to_one_device() -> None:
    seen: dict[str, str] = {name: name for name in device_names()}
    for name in device_names():
        for alias in load_device(name).aliases:
            assert seen.setdefault(alias, name) == name
            assert load_device(alias).name == name
            assert load_device(alias.upper()).name == name
    assert len(seen) > len(device_names())


def test_a_device_is_returned_as_it_is() -> None:
    device = load_device("stm32f405")
    assert load_device(device) is device
    assert load_device("stm32f405") is device


@pytest.mark.parametrize(
    ("name", "hint"), [("stm32f40", "did you mean stm32f405"), ("rpi4", None), ("pico3", "did you mean pico"), ("zzz", "see `embarq devices`")]
)
def test_an_unknown_name_gets_close_ones(name: str, hint: str | None) -> None:
    if hint is None:
        assert load_device(name).name == "rpi-4b"
        return
    with pytest.raises(UsageError) as caught:
        load_device(name)
    assert str(caught.value).startswith(f'There is no device "{name}"; ')
    assert hint in str(caught.value)


def test_isa_is_architecture_and_extensions() -> None:
    assert load_device("stm32f405").isa == {"armv7e-m", "dsp", "fpu-sp"}
    assert load_device("rp2040").isa == {"armv6-m"}
    for name in KNOWN:
        assert "fpu-dp" not in load_device(name).isa, "double FPUs are built for as single ones"


def test_boards_with_helium_are_emulated_as_what_can_be() -> None:
    device = load_device("mps3-an547")
    assert "mve" in device.isa
    emulated = device.as_emulated()
    assert emulated.isa == {"armv8-m.main", "dsp", "fpu-sp"}
    assert emulated.core.name == "cortex-m33"
    assert load_device("stm32f405").as_emulated() is load_device("stm32f405")


def test_uf2_families_and_the_bootloaders_share() -> None:
    assert load_device("rp2040").uf2_family == 0xE48BFF56
    assert load_device("rp2350").uf2_family == 0xE48BFF59
    assert load_device("stm32f405").uf2_family is None
    flash = load_device("arduino-nano33ble").flash
    assert (flash.reserved_bytes, flash.usable_start) == (65536, 65536)


def test_this_computer_tells_what_it_is() -> None:
    host = load_device("host")
    assert host.core.count >= 1
    assert host.main_ram.size_bytes > 256 << 20
    assert host.backends[0] == "host"
    assert all(fact.source == "measured" for fact in host.facts.values())


# -- files of a user's own ---------------------------------------------------------------------------------------------


def test_the_partial_example_of_the_readme_loads(tmp_path: Path) -> None:
    device = load_device(write(tmp_path, PARTIAL))
    assert device.name == "myboard"
    assert device.family == "stm32f4"
    assert device.flash.usable_start == 0x0800_8000
    assert device.flash.size_bytes == 1 << 20
    assert [region.size_bytes for region in device.arena_regions()] == [131072, 32768]
    assert device.facts["memories.flash.reserved_bytes"].source == "schematic"
    assert device.facts["memories.ccm.size_bytes"].source == "myboard.toml"
    assert device.facts["memories.flash.size_bytes"].source == "PR"
    assert device.aliases == ()


def test_the_whole_example_of_the_readme_loads(tmp_path: Path) -> None:
    device = load_device(str(write(tmp_path, WHOLE, "whole.toml")))
    assert (device.name, device.flash.size_bytes, device.main_ram.size_bytes) == ("whole", 512 << 10, 98304)


def test_the_measured_example_of_the_readme_loads(tmp_path: Path) -> None:
    device = load_device(write(tmp_path, MEASURED, "mypi.toml"))
    assert [(rate.name, rate.bytes_s, rate.macs_s) for rate in device.rates] == [("memcpy/4t", 3_900_000_000, None), ("onnx/int8/4t", None, 31_000_000_000)]


def test_a_file_can_extend_its_neighbour_and_not_itself(tmp_path: Path) -> None:
    write(tmp_path, PARTIAL)
    second = write(tmp_path, 'name = "second"\nkind = "mcu"\nextends = "myboard.toml"\nstack_bytes = 8192\n', "second.toml")
    assert load_device(second).stack_bytes == 8192
    assert load_device(second).flash.usable_start == 0x0800_8000
    loop = write(tmp_path, 'name = "loop"\nkind = "mcu"\nextends = "loop.toml"\n', "loop.toml")
    with pytest.raises(DeviceFileError, match="extends itself"):
        load_device(loop)


UNCONFIRMED = "clock_hz = { value = 168_000_000, confirmed = false }"
MISTAKES = [
    ("clock_hz", "clok_hz", ['[[cores]] cortex-m4 has the key "clok_hz"', 'did you mean "clock_hz"?', "allowed are name, arch"]),
    ('name = "whole"', 'nam = "whole"', ['the file has the key "nam"', 'did you mean "name"?']),
    ("[[memories]]", "[[memory]]", ['the key "memory"', 'did you mean "memories"?']),
    ("size_bytes = 98304", "", ['[[memories]] ram has no "size_bytes"', "a whole number of at least 0"]),
    ("size_bytes = 98304", 'size_bytes = "96K"', ['"size_bytes" in [[memories]] ram is text (\'96K\')', "must be a whole number of at least 0"]),
    ("size_bytes = 98304", "size_bytes = -1", ["must be a whole number of at least 0"]),
    ("size_bytes = 98304", "size_bytes = 0", ["the memory ram", "none is left"]),
    ("size_bytes = 98304", "size_bytes = 0xF0000000", ["beyond 32-bit addresses"]),
    ("size_bytes = 98304", "size_bytes = { value = 98304, sorce = 'x' }", ["{ value, source, confirmed }", '"sorce" is not one of those']),
    ("size_bytes = 98304", "size_bytes = { source = 'x' }", ['"value" is missing']),
    ("size_bytes = 98304", "size_bytes = { value = 98304, source = 'PR' }", ['the source "PR"', "is not in [sources]"]),
    ("size_bytes = 98304", "size_bytes = { value = 98304, confirmed = false }", ["is not confirmed and no device does without it"]),
    ("start = 0x2000_0000", "start = 0x0800_0000", ["overlap at 0x8000000"]),
    ('kind = "ram"', 'kind = "rom"', ['the kind of memory ram is "rom"', "must be one of flash, ram"]),
    ('"stack", "arena"', '"stac", "arena"', ['is "stac"', 'did you mean "stack"?']),
    ('"data", "stack", "arena"', '"data", "arena"', ['0 ram memories have the role "stack"']),
    ('"data", "stack", "arena"', '"data", "stack"', ['no RAM has the role "arena"']),
    ('arch = "armv7e-m"', 'arch = "armv7em"', ['did you mean "armv7e-m"?']),
    ('isa = ["dsp", "fpu-sp"]', 'isa = "dsp"', ["must be a list of texts"]),
    ('isa = ["dsp", "fpu-sp"]', 'isa = ["dps"]', ['did you mean "dsp"?']),
    ('backends = ["firmware"]', "", ['has no "backends"', 'extends = "<a device>"']),
    ('backends = ["firmware"]', "backends = []", ["backends is empty"]),
    ('kind = "mcu"', 'kind = "mpu"', ['the kind is "mpu"', 'did you mean "mcu"?']),
    ('kind = "serial"', 'kind = "seriel"', ["did you mean"]),
    ('cpu = "cortex-m4"', 'cpu = "cortex-m9"', ['emulator.cpu is "cortex-m9"', "cortex-m33"]),
    ("stack_bytes = 4096", "stack_bytes = 1000000", ["stack_bytes is 1000000", "make the stack smaller"]),
    ("[[cores]]", "[cores]", ['"cores" is a table', "write each one under [[cores]]"]),
    ('name = "cortex-m4"', "", ['[[cores]] 1 has no "name"']),
    ("[[cores]]", "[[cores]", ["is not valid TOML"]),
    ('name = "ram"', 'name = "flash"', ["two [[memories]] are called flash"]),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES)
def test_a_mistake_gets_one_sentence(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in WHOLE
    path = write(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(DeviceFileError) as caught:
        load_device(path)
    text = str(caught.value)
    assert "myboard.toml" in text
    assert "\n" not in text or "TOML" in text
    for part in said:
        assert part in text


def test_a_file_that_is_not_there_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=r"The device file .*absent.toml cannot be read \(No such file or directory\)"):
        load_device(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceFileError, match="is not valid TOML"):
        load_device(tmp_path / "binary.toml")


def test_an_unconfirmed_number_is_shown_and_never_used(tmp_path: Path) -> None:
    device = load_device(write(tmp_path, WHOLE.replace("clock_hz = 168_000_000", UNCONFIRMED)))
    assert device.core.clock_hz == 0
    assert list(device.unconfirmed()) == ["cores.cortex-m4.clock_hz"]
    with pytest.raises(UsageError, match=r"cores.cortex-m4.clock_hz of whole is not confirmed by any source \(it may be 168000000\)"):
        device.number("cores.cortex-m4.clock_hz")
    assert device.number("memories.ram.size_bytes") == 98304
    with pytest.raises(UsageError, match=r"has no number memories.ram.size; did you mean memories.ram.size_bytes\?"):
        device.number("memories.ram.size")
    agx = load_device("jetson-agx-orin")
    assert agx.main_ram.bandwidth_bytes_s is None
    assert "memories.ram.bandwidth_bytes_s" in agx.unconfirmed()


def test_a_device_made_by_hand_checks_itself() -> None:
    core = Core("cortex-m4", "armv7e-m")
    flash = Memory("flash", "flash", 1024, start=0, roles=("code",))
    ram = Memory("ram", "ram", 8192, start=512, roles=("stack", "arena"))
    with pytest.raises(DeviceFileError, match="made: the memories flash and ram overlap at 0x200; mend start or size_bytes"):
        Device("made", "mcu", (core,), (flash, ram), ("firmware",))


def test_neighbouring_banks_join_and_others_do_not() -> None:
    names = [region.name for region in load_device("stm32h743").arena_regions()]
    assert names == ["dtcm", "axi", "sram1+sram2+sram3", "sram4"]


# -- properties --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="ascii", exclude_characters='"\\\n\r', categories=("L", "N", "P", "S")), min_size=1, max_size=8)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=True), TEXT, st.lists(st.integers(0, 9), max_size=3), st.just({}),
    st.just({"value": 1}), st.just({"value": 4096, "confirmed": False}), st.just([[4096, 2]]),
)


def to_toml(value: Any) -> str:
    """An inline TOML value."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{ " + ", ".join(f'"{key}" = {to_toml(item)}' for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(to_toml, value)) + "]"
        case str():
            return '"' + value + '"'
    return repr(value)


def places(tree: Any) -> list[tuple[Any, str]]:
    """Every (table, key) of a TOML document."""
    found = []
    if isinstance(tree, dict):
        found += [(tree, key) for key in tree]
        for value in tree.values():
            found += places(value)
    elif isinstance(tree, list):
        for value in tree:
            found += places(value)
    return found


@settings(max_examples=400)
@given(data=st.data())
def test_any_change_loads_or_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tree = tomllib.loads(WHOLE)
    table, key = data.draw(st.sampled_from(places(tree)))
    match data.draw(st.sampled_from(["drop", "rename", "replace"])):
        case "drop":
            del table[key]
        case "rename":
            table[data.draw(TEXT)] = table.pop(key)
        case "replace":
            table[key] = data.draw(VALUES)
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_text("\n".join(f'"{key}" = {to_toml(value)}' for key, value in tree.items()), encoding="utf-8")
    try:
        device = load_device(path)
    except DeviceFileError as error:
        assert "mutated.toml" in str(error)
        assert "\n" not in str(error)
    else:
        assert device.flash.usable_bytes > 0
        assert device.arena_regions()
