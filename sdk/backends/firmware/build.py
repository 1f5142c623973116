"""From a plan to files: the C library, and on boards with a start-up of ours the firmware (ELF, bin, hex, UF2).

What is compiled is what is shipped: the library's own files are written into an empty folder and built there under
relative names, so neither the machine nor the folder leaves a trace in the bytes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import firmware_bridge
from sdk.backends.firmware import images
from sdk.backends.firmware.emit import identifier, model_header, model_source
from sdk.backends.firmware.learning import bound_training
from sdk.backends.firmware.library import library_files
from sdk.backends.firmware.toolchain import Source, toolchain
from sdk.graph.ops import written
from sdk.kernels.base import Call
from sdk.planner.plan import Plan
from targets.device import Device

Progress = Callable[[str], None]
BRIDGE = Path(firmware_bridge.__file__).parent / "device"
MAIN = Path(__file__).resolve().parents[2] / "runtime" / "main.c"


@dataclass(frozen=True)
class Emitted:
    """Files by their path in the artifact, the real sizes of the firmware (None for a library alone) and who built it."""

    files: Mapping[str, bytes]
    sizes: images.ElfSizes | None
    compiler: str


def emit(plan: Plan, progress: Progress | None = None) -> Emitted:
    """Build what `plan` describes. Raises `ToolError` when the compiler is missing or refuses."""
    library = model_library(plan)
    files = {f"library/{path}": content for path, content in library.items()}
    if not plan.device.family:  # no start-up code for this board: its own SDK builds the library
        return Emitted(files, None, "none")
    with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
        elf = build_firmware(plan, library, Path(folder), progress)
        parts, sizes = images.segments(elf), images.sizes(elf)
        files["firmware/model.elf"] = elf.read_bytes()
        files["firmware/model.bin"] = images.to_bin(parts)
        files["firmware/model.hex"] = images.to_hex(parts)
        if plan.device.uf2_family is not None:
            files["firmware/model.uf2"] = images.to_uf2(parts, plan.device.uf2_family)
    return Emitted(files, sizes, plan.compiler)


def plan_id(plan: Plan) -> bytes:
    """SHA-256 of everything in the plan that the generated code depends on: the firmware tells it, the host compares."""
    digest = hashlib.sha256(f"{plan.device.name} {plan.graph.name}".encode())
    for call in calls_of(plan):
        digest.update(repr((call.node, call.function, call.fields, place(plan)(_output(plan, call)))).encode())
        for name, array in call.constants.items():
            digest.update(name.encode() + array.tobytes())
    for variable in plan.training.variables if plan.training else ():
        digest.update(repr((variable.name, variable.shape, variable.dtype, place(plan)(variable.name))).encode())
        digest.update(b"" if variable.initial is None else variable.initial.tobytes())
    return digest.digest()


def calls_of(plan: Plan) -> list[Call]:
    """The kernel calls in order; reshapes have none."""
    return [step.call for step in plan.steps if step.call is not None]


def _output(plan: Plan, call: Call) -> str:
    return next(written(node)[0] for node in plan.graph.nodes if node.name == call.node)


def place(plan: Plan) -> Callable[[str], tuple[int, int]]:
    """Tensor name -> (region, offset)."""
    return lambda name: (plan.placements[name].region, plan.placements[name].offset)


def model_library(plan: Plan) -> Mapping[str, bytes]:
    """The C library of the plan: relative path -> content."""
    calls = calls_of(plan)
    header = model_header(plan.name, plan.graph, plan.arena_bytes, plan.training)
    source = model_source(plan.name, plan.graph, calls, place(plan), _scratch(plan), plan.arena_bytes, plan_id(plan), learns=plan.training)
    return library_files(plan.name, plan.graph, calls, header, source)


def _scratch(plan: Plan) -> Callable[[str], tuple[int, int]]:
    def where(node: str) -> tuple[int, int]:
        found = plan.scratch(node)
        return found.region, found.offset

    return where


def build_firmware(plan: Plan, library: Mapping[str, bytes], folder: Path, progress: Progress | None = None) -> Path:
    """Compile and link the firmware in `folder`; the path of its ELF."""
    from targets.boards import linker_script

    write_files(folder, library)
    write_files(folder / "board", board_files(plan.device))
    write_files(folder / "bridge", {p.name: p.read_bytes() for p in sorted(BRIDGE.glob("*.[ch]"))} | {"main.c": MAIN.read_bytes()})
    learnt = plan.training.state_bytes if plan.training else 0
    script = linker_script(plan.device, plan.stack_reserved_bytes, learnt)
    write_files(folder, {"bind.c": bind_source(plan).encode(), "board.ld": script.encode()})
    kit = toolchain(plan.device, plan.compiler)
    objects = kit.compile(sources_of(folder, plan.device), folder, progress)
    return kit.link(objects, Path("board.ld"), Path("model.elf"), folder)


def board_files(device: Device) -> dict[str, bytes]:
    """The board's C and every header beside it, under the paths they include each other by."""
    from targets.boards import include_folders, sources

    root = include_folders()[0]
    paths = [*sources(device), *sorted(root.rglob("*.h"))]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


def sources_of(folder: Path, device: Device) -> list[Source]:
    """Every C file in `folder` with its flags: kernels for speed, everything that waits for bytes for size."""
    from targets.boards import defines

    board = dict(defines(device))
    includes = (Path("include"), Path("bridge"), Path("board"))
    rows = []
    for pattern, optimise in (("src/*.c", "2"), ("bridge/*.c", "s"), ("board/**/*.c", "s"), ("*.c", "s")):
        rows += [Source(p.relative_to(folder), includes, board, optimise) for p in sorted(folder.glob(pattern))]
    return rows


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, relative path -> content, into `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def bind_source(plan: Plan) -> str:
    """The C that ties a model to a firmware: the arenas in their memories, and the names main.c looks for."""
    ident = identifier(plan.name)
    lines = [f'#include "{ident}.h"', '#include "embarq_bridge.h"', ""]
    bases = []
    for region, size in enumerate(plan.arena_bytes):
        if size:
            lines.append(f'static uint8_t arena_{region}[{size}] __attribute__((section(".arena_{region}"), aligned(16)));')
        bases.append(f"arena_{region}" if size else "0")
    lines += ["", f"extern const embarq_model *const embarq_the_model;\nconst embarq_model *const embarq_the_model = &{ident}_model;"]
    lines.append(f"extern const embarq_memory embarq_the_memory;\nconst embarq_memory embarq_the_memory = {{{{{', '.join(bases)}}}}};")
    lines += bound_training(ident, plan.training is not None)
    return "\n".join(lines) + "\n"
