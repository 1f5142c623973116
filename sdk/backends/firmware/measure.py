"""Measure what each C function of the runtime takes, for `sdk/kernels/measured.json`: `python -m sdk.backends.firmware.measure`.

For every core that a shipped board has, the firmware is built once with no kernel (the base) and once with each kernel
alone. A kernel's entry names the functions it brings (`needs`: name -> bytes of code), so that a plan can add up a set of
kernels that share some, `rodata` it brings beside them, the deepest stack, read off the instructions, and for the kernels that
multiply the cycles an emulated board counted (`sdk.backends.firmware.cycles`).

Each compiler's figures carry the hash of the C and the flags they were measured from (`fingerprint`), and a test compares it:
after any change to the C below, `make measure`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdk.backends.firmware import images
from sdk.backends.firmware.build import BRIDGE, MAIN, board_files, write_files
from sdk.backends.firmware.cycles import measure_cycles, with_cycles
from sdk.backends.firmware.library import RUNTIME, kernel_files
from sdk.backends.firmware.stack import call_graph
from sdk.backends.firmware.toolchain import GCC_CPU, GCC_FLAGS, ZIG_CPU, ZIG_FLAGS, Source, Toolchain, toolchain
from sdk.errors import ToolError
from sdk.planner.measured import FILE, isa_key
from targets.device import Device, device_names, load_device

#: The model that is linked in place of a real one; its symbols are not counted.
BIND = """#include "embarq_bridge.h"
#ifdef KERNEL
extern void KERNEL(const void *params, const embarq_memory *memory);
#else
static void KERNEL_NONE(const void *params, const embarq_memory *memory) { (void)params; (void)memory; }
#define KERNEL KERNEL_NONE
#endif
static const embarq_step measure_steps[1] = {{KERNEL, 0, 0, 0}};
static const uint8_t measure_id[32];
static const embarq_tensor measure_tensor[1] = {{"m", 0, 0, 0, 0, {0}, 0.0f, 0}};
static const embarq_model measure_model = {EMBARQ_ABI, "m", measure_id, {0}, measure_tensor, measure_tensor, measure_steps, 1, 1, 1};
extern const embarq_model *const embarq_the_model;
const embarq_model *const embarq_the_model = &measure_model;
extern const embarq_memory embarq_the_memory;
const embarq_memory embarq_the_memory = {{0, 0, 0, 0}};
extern const embarq_training *const embarq_the_training;
extern const embarq_learning *const embarq_the_learning;
#ifdef LEARNS
extern const embarq_learning embarq_learning_here;
static const embarq_variable measure_variable[1] = {{"m", 0, 0, 0}};
static const embarq_training measure_training = {&measure_model, &measure_model, measure_variable, 1, 0};
const embarq_training *const embarq_the_training = &measure_training;
const embarq_learning *const embarq_the_learning = &embarq_learning_here;
#else
const embarq_training *const embarq_the_training = 0;
const embarq_learning *const embarq_the_learning = 0;
#endif
"""
#: Stack for the boot ROM of an RP2040 or RP2350 while it writes flash, and for the code in RAM that calls it; no datasheet tells it.
ROM_STACK = 256
OURS = ("measure_", "embarq_the_", "KERNEL_NONE")
FLAGS: Mapping[str, object] = {"zig": (ZIG_CPU, ZIG_FLAGS), "gcc": (GCC_CPU, GCC_FLAGS)}


def boards() -> list[Device]:
    """Every shipped board that firmware can be built for."""
    found = [load_device(name) for name in device_names()]
    return [device for device in found if device.kind == "mcu" and device.family]


def kernel_functions() -> list[str]:
    """Every kernel the runtime's header declares."""
    header = "".join((RUNTIME / "include" / name).read_text() for name in ("embarq_kernels.h", "embarq_training_kernels.h"))
    return sorted(set(re.findall(r"^embarq_kernel_function (embarq_\w+);", header, re.MULTILINE)))


def fingerprint(compiler: str) -> str:
    """Hash of all that is measured with `compiler`: C without its comments, linker scripts, flags. Versions of the compiler
    are not in it: that of zig is pinned, and gcc's differs from machine to machine."""
    from targets.boards import defines

    digest = hashlib.sha256(repr((BIND, FLAGS[compiler])).encode())
    runtime = [*(RUNTIME / "include").glob("*.h"), *kernel_files(RUNTIME), *BRIDGE.glob("*.[ch]"), MAIN]
    parts = {path.name: path.read_text() for path in runtime}
    for device in boards():
        parts |= {f"{device.name}/{name}": content.decode() for name, content in board_files(device).items()}
        parts[f"{device.name}/board.ld"] = _script(device).decode()
        parts[f"{device.name}/defines"] = repr(sorted(defines(device).items()))
    for name in sorted(parts):
        digest.update(f"{name}\n{_bare(parts[name])}\n".encode())
    return digest.hexdigest()


def _bare(source: str) -> str:
    """C without comments, line ends and indentation: what of it a compiler sees."""
    return " ".join(re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.DOTALL).split())


def measure(device: Device, compiler: str, folder: Path, kernels: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The base of `device`, and with `kernels` an entry for each kernel that its core has."""
    kit = toolchain(device, compiler)
    write_files(folder, {"bind.c": BIND.encode(), "board.ld": _script(device)})
    write_files(folder / "include", {p.name: p.read_bytes() for p in (RUNTIME / "include").glob("*.h")})
    write_files(folder / "src", {p.name: p.read_bytes() for p in kernel_files(RUNTIME)})
    write_files(folder / "board", board_files(device))
    write_files(folder / "bridge", {p.name: p.read_bytes() for p in BRIDGE.glob("*.[ch]")} | {"main.c": MAIN.read_bytes()})
    objects = kit.compile([s for s in _sources(folder, device) if kernels or s.path.parts[0] != "src"], folder)
    base = _link(kit, objects, None, folder)
    there = {name for path in objects for name, (_, size) in images.symbols(folder / path).items() if size} if kernels else set()
    entries = {f: _kernel(_link(kit, objects, f, folder), base, f) for f in kernel_functions() if f in there}
    learning = _learning(_link(kit, objects, None, folder, learns=True), base)
    return {"family": device.family, "core": isa_key(device.core), **_base(base), "learning": learning}, entries


def _script(device: Device) -> bytes:
    from targets.boards import linker_script

    return linker_script(device).encode()


def _sources(folder: Path, device: Device) -> list[Source]:
    from sdk.backends.firmware.build import sources_of

    return [s for s in sources_of(folder, device) if s.path.name != "bind.c"]


def _link(kit: Toolchain, objects: Iterable[Path], function: str | None, folder: Path, learns: bool = False) -> Path:
    name = function or ("learning" if learns else "base")
    defines = ({"KERNEL": function} if function else {}) | ({"LEARNS": "1"} if learns else {})
    bind = Source(Path("bind.c"), (Path("include"), Path("bridge")), defines, "s")
    kit.compile([bind], folder)
    return kit.link([*objects, Path("bind.o")], Path("board.ld"), Path(f"{name}.elf"), folder)


def _ours(elf: Path) -> int:
    """Bytes of the stand-in model, its one-letter names included."""
    return sum(size for name, (_, size) in images.symbols(elf).items() if name.startswith(OURS)) + 2


def _base(elf: Path) -> dict[str, Any]:
    sizes, graph = images.sizes(elf), call_graph(elf)
    functions = {n: s for n, (_, s) in images.symbols(elf).items() if n.startswith("KERNEL_NONE")}
    called_back = [n for n in graph.uncalled() if n != "Reset_Handler" and not n.startswith("KERNEL_NONE")]
    return {
        "text": sizes.text - sum(functions.values()),
        "rodata": sizes.rodata - (_ours(elf) - sum(functions.values())),
        "data": sizes.data,
        "bss": sizes.bss,
        "stack": graph.depth("Reset_Handler"),
        "callback_stack": max((graph.depth(n) for n in called_back), default=0),
    }


def _learning(elf: Path, base: Path) -> dict[str, Any]:
    """What a model that learns takes besides: the bridge's training group, the store, the flash driver."""
    with_it, without, graph = _base(elf), _base(base), call_graph(elf)
    drivers = max(graph.depth(f"board_flash_{name}") for name in ("read", "erase", "program"))
    in_ram = any(name.startswith("rom_half") for name in images.symbols(elf))  # the driver that calls the boot ROM
    sizes = {key: with_it[key] - without[key] for key in ("text", "rodata", "data", "bss")}
    return {**sizes, "stack": graph.depth("embarq_training_group") + drivers + (ROM_STACK if in_ram else 0)}


def _kernel(elf: Path, base: Path, function: str) -> dict[str, Any]:
    sizes, before = images.sizes(elf), images.sizes(base)
    old = images.symbols(base)
    graph = call_graph(elf)
    new = {n: s for n, (_, s) in images.symbols(elf).items() if n not in old and s and not n.startswith("$")}
    code = {f"{n}:{s}": s for n, s in new.items() if n in graph.functions}  # two files may have a static of one name
    none = sum(s for n, (_, s) in old.items() if n.startswith("KERNEL_NONE"))
    return {
        "needs": dict(sorted(code.items())),
        "text": sizes.text - before.text + none - sum(code.values()),
        "rodata": sizes.rodata - before.rodata,
        "data": sizes.data - before.data,
        "bss": sizes.bss - before.bss,
        "stack": graph.depth(function),
    }


def measured(compiler: str) -> dict[str, Any]:
    """The file's entry for `compiler`. Raises ToolError when it is not installed."""
    sources = fingerprint(compiler)  # before: what changes meanwhile was not measured
    bases: dict[str, Any] = {}
    cores: dict[str, Any] = {}
    for device in boards():
        with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
            base, entries = measure(device, compiler, Path(folder), isa_key(device.core) not in cores)
        bases[device.name] = base
        cycles = measure_cycles(device, compiler) if entries else {}
        cores.setdefault(base["core"], with_cycles(entries, cycles))
        sys.stderr.write(f"{compiler} {device.name}: {len(entries)} kernels, cycles of {len(cycles)}\n")
    return {"sources": sources, "bases": bases, **cores}


def main() -> None:
    """Measure with the compilers named (zig when none is) and write the file after each; figures of others stay."""
    for compiler in sys.argv[1:] or ["zig"]:
        try:
            entry = measured(compiler)
        except ToolError as error:
            sys.exit(f"{compiler} was not measured: {error}")
        before: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
        FILE.write_text(json.dumps({**before, compiler: entry}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
