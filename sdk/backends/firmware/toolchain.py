"""The compilers that turn C into firmware: which flags each core needs, and how a tool that is missing is told.

Default is the clang inside the `ziglang` wheel: one version everywhere, so the same plan gives the same bytes on every
machine. `arm-none-eabi-gcc` is taken when asked for; the emitted C compiles with both, without a warning.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from sdk.errors import ToolError, UnsupportedOp
from targets.device import Device

#: core -> (target triple, -mcpu) for ziglang 0.17.1. Double-precision FPUs are used as single ones: the emulator has
#: no double ones and no kernel wants doubles. Cores with Helium are built for its subset until Helium kernels exist.
ZIG_CPU = {
    "cortex-m0": ("thumb-freestanding-eabi", "cortex_m0"),
    "cortex-m0plus": ("thumb-freestanding-eabi", "cortex_m0plus"),
    "cortex-m3": ("thumb-freestanding-eabi", "cortex_m3"),
    "cortex-m4": ("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp"),
    "cortex-m7": ("thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16sp"),
    "cortex-m33": ("thumb-freestanding-eabihf", "cortex_m33+dsp+fp_armv8d16sp"),
    "cortex-m55": ("thumb-freestanding-eabihf", "cortex_m33+dsp+fp_armv8d16sp"),
    "riscv32": ("riscv32-freestanding-none", "generic_rv32+m+c"),
}

#: core -> arm-none-eabi-gcc flags.
GCC_CPU = {
    "cortex-m0": ("-mcpu=cortex-m0", "-mfloat-abi=soft"),
    "cortex-m0plus": ("-mcpu=cortex-m0plus", "-mfloat-abi=soft"),
    "cortex-m3": ("-mcpu=cortex-m3", "-mfloat-abi=soft"),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m33": ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m55": ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
}

#: No fused multiply-add: C must round exactly where numpy does. No unwind tables: nothing on a board unwinds.
COMMON = (
    "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffreestanding", "-ffp-contract=off", "-fno-math-errno",
    "-ffunction-sections", "-fdata-sections", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-g0",
)  # fmt: skip

#: (compile, link) besides those of the core. -O comes per file; the sanitiser that zig switches on in debug builds would drag
#: its runtime in.
ZIG_FLAGS = (
    (*COMMON, "-fno-sanitize=undefined", "-fno-stack-protector"),
    ("-Wl,--gc-sections", "-Wl,--build-id=none", "-nostartfiles", "-O2", "-fno-sanitize=undefined"),
)
GCC_FLAGS = (
    (*COMMON, "-fno-stack-protector", "-fno-tree-loop-distribute-patterns"),
    ("-Wl,--gc-sections", "-Wl,--build-id=none", "-nostartfiles", "--specs=nosys.specs", "-Wl,--no-warn-rwx-segments"),
)


@dataclass(frozen=True)
class Toolchain:
    """One compiler for one core. `compile` takes `.c` to `.o`, `link` takes objects and a script to an ELF."""

    name: str
    command: tuple[str, ...]
    cpu_flags: tuple[str, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...] = ()

    def compile(self, sources: Sequence[Source], folder: Path, progress: Callable[[str], None] | None = None) -> list[Path]:
        """Compile every source, whose path is relative to `folder`, into an object there; raises `ToolError` with the first complaint."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            jobs = [pool.submit(self._compile_one, source, folder, progress) for source in sources]
            return [job.result() for job in jobs]

    def _compile_one(self, source: Source, folder: Path, progress: Callable[[str], None] | None) -> Path:
        output = source.path.with_suffix(".o")
        includes = [f"-I{path}" for path in source.includes]
        defines = [f"-D{key}={value}" for key, value in source.defines.items()]
        run_tool([*self.command, *self.cpu_flags, *self.compile_flags, f"-O{source.optimise}", *includes, *defines,
                  "-c", str(source.path), "-o", str(output)], f"compile {source.path.name}", folder)  # fmt: skip
        if progress:
            progress(source.path.name)
        return output

    def link(self, objects: Sequence[Path], script: Path, output: Path, folder: Path) -> Path:
        """Link `objects` by `script` into the ELF `output`, all relative to `folder`; unused functions are left out."""
        run_tool([*self.command, *self.cpu_flags, *self.link_flags, f"-Wl,-T,{script}", *map(str, objects), *self.libraries,
                  "-o", str(output)], f"link {output.name}", folder)  # fmt: skip
        return folder / output


@dataclass(frozen=True)
class Source:
    """One C file and how it wants to be compiled."""

    path: Path
    includes: tuple[Path, ...]
    defines: dict[str, str]
    optimise: str = "2"


def run_tool(command: Sequence[str], what: str, folder: Path | None = None) -> str:
    """Run a tool in `folder`; its output, or a `ToolError` with the first line that says error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=folder)
    except OSError as error:
        raise ToolError(f"cannot {what}: {command[0]} does not start ({error.strerror}); install it or choose another compiler") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else f"exit status {done.returncode}")
        raise ToolError(f"cannot {what}: {first.strip()}")
    return done.stdout


def toolchain(device: Device, compiler: str = "zig") -> Toolchain:
    """The compiler for `device`. `compiler` is "zig" (default, reproducible) or "gcc" (arm-none-eabi-gcc on PATH)."""
    core = device.cores[0].name
    match compiler:
        case "zig":
            return _zig(core, device.name)
        case "gcc":
            return _gcc(core, device.name)
    raise ToolError(f"compiler {compiler!r} is not known; choose zig or gcc")


def _zig(core: str, device_name: str) -> Toolchain:
    if core not in ZIG_CPU:
        raise UnsupportedOp(f"{device_name} has a {core}, which ziglang's clang does not compile for; use its vendor's compiler on the C library")
    target, cpu = ZIG_CPU[core]
    return Toolchain("zig", (str(zig_binary()), "cc"), ("-target", target, f"-mcpu={cpu}"), *ZIG_FLAGS)


def zig_binary() -> Path:
    """The clang of the `ziglang` wheel; raises ToolError when it is not installed."""
    spec = util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise ToolError('the C compiler is not installed; run: pip install "embarq[firmware]"')
    folder = Path(spec.submodule_search_locations[0])
    return next((p for p in (folder / "zig", folder / "zig.exe") if p.exists()), folder / "zig")


def _gcc(core: str, device_name: str) -> Toolchain:
    if core not in GCC_CPU:
        raise UnsupportedOp(f"{device_name} has a {core}, which arm-none-eabi-gcc does not compile for; leave the compiler at zig")
    binary = shutil.which("arm-none-eabi-gcc")
    if binary is None:
        raise ToolError("arm-none-eabi-gcc is not on PATH; install it (Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi) or use zig")
    return Toolchain("gcc", (binary,), ("-mthumb", *GCC_CPU[core]), *GCC_FLAGS, ("-lm", "-lc", "-lgcc"))
