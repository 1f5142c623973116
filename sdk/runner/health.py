"""What the device feels: memory of this process, temperature, clock throttling. Everything is None where the system does not tell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

THROTTLE_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
#: Bits of a Raspberry Pi's `get_throttled`: now, and 16 places higher the same since boot.
THROTTLE_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


def memory(root: Path = Path("/")) -> dict[str, int | None]:
    """Resident bytes of this process, now and at their highest.

    VmHWM, not getrusage: its ru_maxrss is inherited through exec, so a small process started by a large one reports the large one's.
    """
    try:
        text = (root / "proc/self/status").read_text()
    except OSError:
        return {"rss_bytes": None, "peak_rss_bytes": None}
    fields = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.startswith(("VmRSS:", "VmHWM:"))}
    return {
        "rss_bytes": int(fields["VmRSS"]) * 1024 if "VmRSS" in fields else None,
        "peak_rss_bytes": int(fields["VmHWM"]) * 1024 if "VmHWM" in fields else None,
    }


def library_bytes(root: Path = Path("/")) -> int | None:
    """Resident pages of programs and shared libraries, which are the file's own: shared with other processes, dropped when memory is short.

    The same process shows 28 or 43 MB of them, as the page cache happens to hold them: a page fault maps whatever of its neighbourhood
    was read ahead. Take them off `peak_rss_bytes` to compare two measurements.
    """
    try:
        lines = (root / "proc/self/smaps").read_text().splitlines()
    except OSError:
        return None
    resident: dict[str, int] = {}
    executable: set[str] = set()
    path = ""
    for fields in (line.split(maxsplit=5) for line in lines):
        if not fields[0].endswith(":"):  # a mapping's first line: addresses, permissions, offset, device, inode, path
            path = fields[5] if len(fields) > 5 and fields[5].startswith("/") else ""
            executable |= {path} if "x" in fields[1] else set()
        elif fields[0] in ("Rss:", "Anonymous:"):
            resident[path] = resident.get(path, 0) + int(fields[1]) * (1024 if fields[0] == "Rss:" else -1024)
    return sum(resident[path] for path in executable - {""})


def temperature_c(root: Path = Path("/")) -> float | None:
    """The processor's temperature: the zone that names a CPU or SoC, else the hottest zone."""
    zones: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        try:
            zones[(zone / "type").read_text().strip().lower() + zone.name] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
    named = [value for name, value in zones.items() if any(word in name for word in ("cpu", "soc", "x86_pkg"))]
    return max(named or list(zones.values()), default=None)


def throttling(root: Path = Path("/")) -> dict[str, list[str]] | None:
    """{"now": [...], "since_boot": [...]} on a Raspberry Pi, None elsewhere."""
    word = _throttle_word(root)
    if word is None:
        return None
    return {when: [text for bit, text in THROTTLE_BITS.items() if word >> (bit + shift) & 1] for when, shift in (("now", 0), ("since_boot", 16))}


def _throttle_word(root: Path) -> int | None:
    try:
        return int((root / THROTTLE_FILE).read_text().strip(), 16)
    except (OSError, ValueError):
        pass
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
        return int(done.stdout.strip().rpartition("=")[2], 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def clock_hz(root: Path = Path("/")) -> int | None:
    """The first core's clock now."""
    try:
        return int((root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) * 1000
    except (OSError, ValueError):
        return None


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory the system can still give."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def health(root: Path = Path("/")) -> dict[str, Any]:
    """All of it in one record."""
    return {
        **memory(root), "available_bytes": available_bytes(root), "temperature_c": temperature_c(root), "clock_hz": clock_hz(root),
        "throttling": throttling(root),
    }  # fmt: skip
