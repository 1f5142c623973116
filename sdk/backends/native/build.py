"""From a laid-out graph to one shared library for each kind of machine, built on this computer by the clang in the `ziglang` wheel.

Large constants go round the C compiler: they stand in files that the assembler takes whole (`.incbin`), which is as fast for
a hundred megabytes as for one. Sources lie in an empty folder under relative names, so the same model gives the same bytes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sdk.backends.firmware.build import write_files
from sdk.backends.firmware.emit import C_TYPES, model_header, model_source, written_array
from sdk.backends.firmware.library import RUNTIME, kernel_sources
from sdk.backends.firmware.toolchain import run_tool, zig_binary
from sdk.backends.native.layout import Laid

NAME = "model"
#: Machine as the runner names it -> (target, -mcpu). glibc 2.17 is what wheels for old systems ask for too. Nothing newer than
#: the oldest processor of that name: x86-64 of 2009, any armv8, an armv7 with NEON (Raspberry Pi 2 on), the first Raspberry Pi.
MACHINES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("x86_64-linux-gnu.2.17", "x86_64_v2"),
    "aarch64": ("aarch64-linux-gnu.2.17", "generic"),
    "armv7": ("arm-linux-gnueabihf.2.17", "cortex_a8"),
    "armv6": ("arm-linux-gnueabihf.2.17", "arm1176jzf_s"),
}
#: No fused multiply-add: integers made of floats must be the host's on every machine.
FLAGS = (
    "-std=c99", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize=undefined", "-fno-stack-protector",
    "-ffunction-sections", "-fdata-sections", "-Iinclude",
)  # fmt: skip
LINK = ("-shared", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--no-undefined", "-s")
#: Only for sums of floats, whose order no promise fixes: they may be taken several at a time.
REORDERED = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
REORDERED_SOURCES = ("conv_f32.c",)
#: Constants from this size on are taken whole by the assembler.
WHOLE_BYTES = 4096
Progress = Callable[[str], None]


def sources(laid: Laid) -> dict[str, bytes]:
    """Relative path -> content of everything that is compiled: the model, its constants, the kernels, the exported functions."""
    blobs: dict[str, bytes] = {}

    def array(name: str, content: np.ndarray) -> str:
        if content.nbytes < WHOLE_BYTES:
            return written_array(name, content)
        blobs[name] = np.ascontiguousarray(content).astype(content.dtype.newbyteorder("<"), copy=False).tobytes()
        return f"extern const {C_TYPES[str(content.dtype)]} {name}[{content.size}];"

    arena = (laid.arena_bytes,)
    text = model_source(NAME, laid.graph, laid.calls, laid.places.__getitem__, laid.scratches.__getitem__, arena, bytes(32), array)
    files = {f"include/{NAME}.h": model_header(NAME, laid.graph, arena).encode(), "model.c": text.encode()}
    files |= {f"include/{path.name}": path.read_bytes() for path in sorted((RUNTIME / "include").glob("*.h"))}
    files |= {f"include/{path.name}": path.read_bytes() for path in sorted((RUNTIME / "kernels").glob("*.h"))}
    files |= {path.name: _of_this_kind(path).read_bytes() for path in kernel_sources(laid.calls)}
    files["native.c"] = (RUNTIME / "native" / "native.c").read_bytes()
    files |= {f"{name}.bin": content for name, content in blobs.items()}
    return files | ({"constants.S": _constants(blobs).encode()} if blobs else {})


def _of_this_kind(kernel: Path) -> Path:
    """The kernel of that name written for processors with vectors and caches, where there is one."""
    other = RUNTIME / "native" / kernel.name
    return other if other.is_file() else kernel


def _constants(blobs: Mapping[str, bytes]) -> str:
    """Assembly that takes each file whole, hidden from other libraries. `%progbits`: `@` begins a comment on 32-bit ARM."""
    lines = ['    .section .note.GNU-stack,"",%progbits', "    .section .rodata"]
    for name in blobs:
        lines += [f"    .balign 64\n    .globl {name}\n    .hidden {name}\n    .type {name}, %object\n{name}:", f'    .incbin "{name}.bin"']
        lines.append(f"    .size {name}, . - {name}")
    return "\n".join(lines) + "\n"


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents: which sources a library was made of."""
    made = hashlib.sha256()
    for name, content in sorted(files.items()):
        made.update(name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    return made.hexdigest()


def libraries(laid: Laid, machines: Sequence[str] = tuple(MACHINES), progress: Progress | None = None) -> dict[str, bytes]:
    """Machine -> the bytes of its shared library. Raises ToolError when the compiler is missing or refuses."""
    compiler, files = str(zig_binary()), sources(laid)

    def build(machine: str) -> bytes:
        if progress:
            progress(f"compiling for {machine}")
        with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
            write_files(Path(folder), files)
            return _build(compiler, machine, Path(folder), files)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(machines, pool.map(build, machines), strict=True))


def _build(compiler: str, machine: str, folder: Path, files: Mapping[str, bytes]) -> bytes:
    target, cpu = MACHINES[machine]
    command = [compiler, "cc", "-target", target, f"-mcpu={cpu}", *FLAGS]
    special = [name for name in REORDERED_SOURCES if name in files]
    plain = [name for name in sorted(files) if name.endswith((".c", ".S")) and name not in special]
    for name in special:
        run_tool([*command, *REORDERED, "-c", name, "-o", f"{name}.o"], f"compile {name} for {machine}", folder)
    objects = [f"{name}.o" for name in special]
    run_tool([*command, *LINK, *plain, *objects, "-lm", "-o", "model.so"], f"build the library for {machine}", folder)
    return (folder / "model.so").read_bytes()
