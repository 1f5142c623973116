"""Every kernel compiles without a warning, with both compilers, for every kind of core."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.kernel_harness import RUNTIME, zig

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-ffreestanding", "-ffp-contract=off", "-c")
ZIG = {
    "cortex-m4": ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"),
    "cortex-m0plus": ("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m0plus"),
    "cortex-m33": ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m33+dsp+fp_armv8d16sp"),
    "riscv32": ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c"),
}
GCC = {
    "cortex-m4": ("-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m0plus": ("-mthumb", "-mcpu=cortex-m0plus"),
    "cortex-m33": ("-mthumb", "-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
}
KERNELS = sorted((*(RUNTIME / "kernels").glob("*.c"), *(RUNTIME / "training").glob("*.c")))


#: The core that the everyday tests compile for; the others are in the long tier.
EVERYDAY = "cortex-m4"


def cores(known: Iterable[str]) -> list[object]:
    """The cores as parameters of a test."""
    return [core if core == EVERYDAY else pytest.param(core, marks=pytest.mark.long) for core in sorted(known)]


@pytest.mark.parametrize("core", cores(ZIG))
def test_zig_has_no_warning(core: str, tmp_path: Path) -> None:
    for kernel in KERNELS:  # zig takes one file with -c
        run = [*zig(), *ZIG[core], *STRICT, f"-I{RUNTIME / 'include'}", str(kernel), "-o", str(tmp_path / "kernel.o")]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]


@pytest.mark.parametrize("core", cores(GCC))
def test_gcc_has_no_warning(core: str, tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    run = ["arm-none-eabi-gcc", *GCC[core], *STRICT, f"-I{RUNTIME / 'include'}", *map(str, KERNELS)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[:4000]
