"""What a device is: cores, memories, links, each number with its source. Facts only; nothing here knows about models.

    device = load_device("stm32f405")          # a shipped name or alias, a path to a TOML file, or a Device (returned as it is)
    device.flash.usable_bytes                  # 1048576
    [(m.name, m.size_bytes) for m in device.arena_regions()]    # [("sram1+sram2", 131072), ("ccm", 65536)]
    device.isa                                 # frozenset({"armv7e-m", "dsp", "fpu-sp"})

A device of one's own is one TOML file outside the package, see targets/README.md.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdk.errors import DeviceFileError, UsageError
from targets import checks, schema
from targets.schema import Fact

__all__ = [
    "Accelerator", "Core", "Device", "Emulator", "Fact", "Link", "Memory", "Peer", "Rate", "Slot", "device_names", "load_device", "shipped_path",
]

MAX_REGIONS = 4  # EMBARQ_REGIONS of the C runtime: memory regions one model can spread over


@dataclass(frozen=True)
class Core:
    """One kind of core. `clock_hz` is 0 where no source confirms it: ask `Device.number` rather than compute with 0."""

    name: str
    arch: str
    isa: tuple[str, ...] = ()
    clock_hz: int = 0
    count: int = 1


@dataclass(frozen=True)
class Memory:
    """One bank of memory. `reserved_bytes` at its start belong to someone else (a bootloader); bandwidths in bytes a second."""

    name: str
    kind: str  # "flash" | "ram"
    size_bytes: int
    start: int = 0
    reserved_bytes: int = 0
    roles: tuple[str, ...] = ()
    sectors: tuple[tuple[int, int], ...] = ()  # (bytes, how many), from the start on: what one erase clears
    write_bytes: int = 1  # smallest unit that can be programmed
    bandwidth_bytes_s: float | None = None  # the vendor's figure
    memcpy_bytes_s: float | None = None  # measured
    memset_bytes_s: float | None = None

    @property
    def usable_start(self) -> int:
        """First address that is ours."""
        return self.start + self.reserved_bytes

    @property
    def usable_bytes(self) -> int:
        """Bytes that are ours."""
        return self.size_bytes - self.reserved_bytes

    @property
    def end(self) -> int:
        """First address behind the bank."""
        return self.start + self.size_bytes


@dataclass(frozen=True)
class Link:
    """A way to talk to the device. For a serial link on a bare board, `uart` and `base` name the peripheral that carries it."""

    name: str
    kind: str  # "serial" | "usb" | "ssh" | "local"
    baud: int = 115200
    uart: str = ""  # model of the peripheral: "stm32-usart-v1", "pl011", ...
    base: int = 0
    pins: str = ""
    usb_ids: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Accelerator:
    """A GPU or NPU; peaks are dense operations a second, None where unknown."""

    name: str
    kind: str
    count: int = 1
    clock_hz: int = 0
    float32_flop_s: float | None = None
    float16_flop_s: float | None = None
    int8_op_s: float | None = None


@dataclass(frozen=True)
class Rate:
    """A speed that `embarq calibrate` measured: "onnx/int8/4t" (engine, precision, threads) in multiply-accumulates a second,
    "memcpy/4t" in bytes copied a second by all threads together. One of the two is given."""

    name: str
    macs_s: float | None = None
    bytes_s: float | None = None


@dataclass(frozen=True)
class Slot:
    """A part of the flash that holds one model image, for updates that can be taken back."""

    name: str
    start: int
    size_bytes: int


@dataclass(frozen=True)
class Peer:
    """A published speed on this board by another stack."""

    name: str
    model: str
    inferences_s: float | None = None
    energy_uj: float | None = None


@dataclass(frozen=True)
class Emulator:
    """How the board is emulated: unicorn's CPU model, what that model lacks, and QEMU's machine where it has one."""

    cpu: str
    lacks: tuple[str, ...] = ()
    qemu_machine: str = ""
    qemu_cpu: str = ""
    qemu_icount_shift: int = 0


@dataclass(frozen=True)
class Device:
    """A checked device. `facts` maps "memories.flash.size_bytes" to its Fact; unconfirmed facts never reach the fields."""

    name: str
    kind: str
    cores: tuple[Core, ...]
    memories: tuple[Memory, ...]
    backends: tuple[str, ...]  # most liked first
    links: tuple[Link, ...] = ()
    title: str = ""
    vendor: str = ""
    aliases: tuple[str, ...] = ()
    family: str = ""  # folder under targets/boards with this board's C
    accelerators: tuple[Accelerator, ...] = ()
    rates: tuple[Rate, ...] = ()  # of a Linux device, measured by `embarq calibrate`; none in the shipped files
    slots: tuple[Slot, ...] = ()
    peers: tuple[Peer, ...] = ()
    emulator: Emulator | None = None
    vector_offset: int = 0  # of the vector table from the usable start of the flash
    stack_bytes: int = 4096  # what the linker script sets aside when nobody asks for another size
    uf2_family: int | None = None
    defines: Mapping[str, str] = field(default_factory=dict)  # for the board's C
    sources: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)
    file: str = ""

    def __post_init__(self) -> None:
        for name in ("defines", "sources", "facts"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for check in checks.CHECKS:
            sentence = check(self)
            if sentence:
                raise DeviceFileError(f"{self.file or self.name}: {sentence}")

    @property
    def core(self) -> Core:
        """The core that runs models."""
        return self.cores[0]

    @property
    def isa(self) -> frozenset[str]:
        """Architecture and extensions of the core that runs models."""
        return frozenset((self.core.arch, *self.core.isa))

    @property
    def flash(self) -> Memory:
        """The memory the program stands in. Raises DeviceFileError on a device without one."""
        return self._only("code", "flash")

    @property
    def main_ram(self) -> Memory:
        """The RAM with stack, .data and .bss, joined with the banks that follow it without a gap."""
        stack = self._only("stack", "ram")
        joined = [bank for bank in self._joined() if bank.start <= stack.start < bank.end]
        return joined[0] if joined else stack

    def arena_regions(self) -> tuple[Memory, ...]:
        """RAM that tensors may live in, neighbouring banks joined, in the file's order (most liked first), at most 4."""
        return tuple(bank for bank in self._joined() if "arena" in bank.roles)[:MAX_REGIONS]

    def number(self, path: str) -> Any:
        """The value of a fact, e.g. number("cores.cortex-m4.clock_hz"). Raises UsageError when it is absent or not confirmed."""
        fact = self.facts.get(path)
        if fact is None:
            close = difflib.get_close_matches(path, self.facts, n=1)
            hint = f"did you mean {close[0]}?" if close else "add it to the device file."
            raise UsageError(f"{self.name} has no number {path}; {hint}")
        if not fact.confirmed:
            raise UsageError(
                f"{path} of {self.name} is not confirmed by any source (it may be {fact.value}); "
                f'state it in a device file of your own that says extends = "{self.name}".'
            )
        return fact.value

    def unconfirmed(self) -> dict[str, Fact]:
        """The numbers that no source confirms: kept out of every field, to be shown as such."""
        return {path: fact for path, fact in self.facts.items() if not fact.confirmed}

    def as_emulated(self) -> Device:
        """The same device with the core that is emulated, where that lacks something; build for this one to run under unicorn."""
        if self.emulator is None or not self.emulator.lacks:
            return self
        isa = tuple(token for token in self.core.isa if token not in self.emulator.lacks)
        core = dataclasses.replace(self.core, name=self.emulator.cpu, arch=checks.EMULATED_ARCHS[self.emulator.cpu], isa=isa)
        return dataclasses.replace(self, cores=(core, *self.cores[1:]))

    def _only(self, role: str, kind: str) -> Memory:
        for memory in self.memories:
            if role in memory.roles and memory.kind == kind:
                return memory
        raise DeviceFileError(f'{self.name} has no {kind} with the role "{role}"; give one of its memories roles = ["{role}"].')

    def _joined(self) -> list[Memory]:
        """RAM banks for tensors, each joined with the banks that begin where it ends."""
        banks: list[Memory] = []
        for bank in (m for m in self.memories if m.kind == "ram" and "arena" in m.roles):
            last = banks[-1] if banks else None
            if last and last.end == bank.start and bank.reserved_bytes == 0:
                roles = tuple(role for role in checks.ROLES if role in last.roles or role in bank.roles)
                joined = dataclasses.replace(
                    last, name=f"{last.name}+{bank.name}", size_bytes=last.size_bytes + bank.size_bytes, roles=roles, sectors=()
                )
                banks[-1] = joined
            else:
                banks.append(bank)
        return banks


# -- loading -----------------------------------------------------------------------------------------------------------


def load_device(device: Device | str | Path) -> Device:
    """The device with that name, alias or TOML file. Raises UsageError for an unknown name, DeviceFileError for a bad file."""
    if isinstance(device, Device):
        return device
    text = str(device)
    if isinstance(device, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return _load_file(Path(device))
    return _shipped(_canonical(text))


def device_names() -> tuple[str, ...]:
    """Names of every shipped device, boards first."""
    return tuple(path.stem for folder in ("mcu", "linux") for path in sorted((_root() / folder).glob("*.toml")))


def shipped_path(name: str) -> Path:
    """The TOML file of a shipped device."""
    for folder in ("mcu", "linux"):
        path = _root() / folder / f"{name}.toml"
        if path.exists():
            return path
    raise UsageError(_unknown_device(name))


def _root() -> Path:
    return Path(__file__).resolve().parent


def _canonical(name: str) -> str:
    wanted = name.strip().lower()
    names = device_names()
    return wanted if wanted in names else _aliases().get(wanted, name)


@cache
def _aliases() -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for name in device_names():
        for alias in schema.read(shipped_path(name)).get("aliases", []):
            pairs[alias.lower()] = name
    return pairs


def _unknown_device(name: str) -> str:
    known = (*device_names(), *_aliases())
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `embarq devices`, or give a TOML file of your own."
    return f'There is no device "{name}"; {hint}'


@cache
def _shipped(name: str) -> Device:
    return _load_file(shipped_path(name))


def _load_file(path: Path) -> Device:
    merged = _resolve(path, ())
    schema.require(merged, str(path))
    if merged.get("detect"):
        from targets.detect import this_computer

        merged.update(schema.normalise(this_computer(), str(path), "measured"))
    shipped = path.resolve().is_relative_to(_root())
    return _build(merged, path.name if shipped else str(path))


def _resolve(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's content with what it extends underneath."""
    if path.resolve() in seen:
        raise DeviceFileError(f"{path} extends itself; name another device in extends.")
    raw = schema.read(path)
    own = schema.normalise(raw, str(path), path.name)
    own["sources"] = {path.name: f"stated in {path.name}", **own.get("sources", {})}
    if "extends" not in own:
        return own
    name = own["extends"]
    base = path.parent / name if name.endswith(".toml") else shipped_path(_canonical(name))
    return schema.merge(_resolve(base, (*seen, path.resolve())), own)


def _build(merged: Mapping[str, Any], file: str) -> Device:
    facts: dict[str, Fact] = {}
    parts = {"cores": Core, "memories": Memory, "links": Link, "accelerators": Accelerator, "rates": Rate, "slots": Slot, "peers": Peer}
    built: dict[str, Any] = {
        name: tuple(made(**_fields(row, f"{name}.{row['name']}", facts)) for row in merged.get(name, [])) for name, made in parts.items()
    }
    if "emulator" in merged:
        built["emulator"] = Emulator(**_fields(merged["emulator"], "emulator", facts))
    scalars = {key: value for key, value in merged.items() if key not in parts and key not in schema.TABLES}
    plain = _fields(scalars, "", facts)
    for key in ("extends", "detect"):
        plain.pop(key, None)
    return Device(**plain, **built, defines=merged.get("defines", {}), sources=merged["sources"], facts=facts, file=file)


def _fields(row: Mapping[str, Any], prefix: str, facts: dict[str, Fact]) -> dict[str, Any]:
    """Plain values for a dataclass; facts are noted, and the unconfirmed ones left at their default."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Fact):
            facts[f"{prefix}.{key}".lstrip(".")] = value
            if not value.confirmed:
                continue
            value = value.value
        result[key] = tuple(tuple(item) if isinstance(item, list) else item for item in value) if isinstance(value, list) else value
    return result
