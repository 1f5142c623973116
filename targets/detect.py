"""What this computer is, as the content of a device file: cores, instruction sets, clock, memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# Names in /proc/cpuinfo for the instruction sets that kernels care about.
FLAGS = {
    "sse4_2": "sse4.2", "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_vnni": "avx512-vnni",
    "asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm",
}
ARCHS = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "armv8-a", "arm64": "armv8-a", "riscv64": "riscv64"}
FALLBACK_RAM_BYTES = 1 << 30  # where the system does not say: cautious for a computer of today


def this_computer() -> dict[str, Any]:
    """The tables `cores` and `memories`; what the system does not tell is left out."""
    info = _cpuinfo()
    core: dict[str, Any] = {
        "name": info.get("model name", platform.processor() or platform.machine() or "cpu").strip() or "cpu",
        "arch": ARCHS.get(platform.machine().lower(), "unknown"),
        "isa": [token for flag, token in FLAGS.items() if flag in info.get("flags", info.get("Features", "")).split()],
        "count": os.cpu_count() or 1,
    }
    clock_hz = _clock_hz(info)
    if clock_hz:
        core["clock_hz"] = clock_hz
    ram = {"name": "ram", "kind": "ram", "size_bytes": _ram_bytes(), "roles": ["code", "data", "stack", "arena"]}
    return {"cores": [core], "memories": [ram]}


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _clock_hz(info: dict[str, str]) -> int:
    """The highest clock in Hz; 0 where the system does not tell."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text(encoding="ascii")) * 1000
    except (OSError, ValueError):
        pass
    try:
        return int(float(info.get("cpu MHz", "0")) * 1e6)
    except ValueError:
        return 0


def _ram_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _ram_bytes_windows()


def _ram_bytes_windows() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [(f"n{i}", ctypes.c_uint64) for i in range(7)]

    status = Status(length=ctypes.sizeof(Status))
    windll = getattr(ctypes, "windll", None)
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return FALLBACK_RAM_BYTES
    return int(status.n0)
