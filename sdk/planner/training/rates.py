"""How fast a device trains, and what its training process takes before any model: measured figures with date, machine and versions.

`rates.json` beside this file holds what `python -m benchmarks.step_rates` measured. Another device is reached through figures that
`embarq calibrate` measures on both: arithmetic scales with matrix products, everything that moves bytes with copying.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from sdk.planner.training.work import Rates

if TYPE_CHECKING:
    from targets.device import Device


@cache
def table() -> Mapping[str, Any]:
    """What was measured; see the module's docstring."""
    return dict(json.loads(resources.files("sdk.planner.training").joinpath("rates.json").read_text(encoding="utf-8")))


def runtime_of(device: Device) -> tuple[int, str]:
    """(bytes of the training process before any model, the sentence that says where the figure comes from)."""
    found = table()
    here = "" if device.core.arch == found["arch"] else f"; {device.name} has other shared libraries, so take it as a guide there"
    text = f"The runtime's {found['process_bytes']:,} bytes were measured on {found['date']} on {found['machine']} with torch {found['torch']}{here}."
    return int(found["process_bytes"]), text


def rates_of(device: Device, threads: int = 1) -> Rates | None:
    """The device's rates; None where the figures that connect it with the measured machine were never measured on it."""
    found = table()
    known = {rate.name: rate.macs_s or rate.bytes_s for rate in device.rates}
    pairs = [(known.get(f"{name}/{threads}t"), found["reference"].get(name)) for name in ("numpy/float32", "memcpy")]
    if any(not here or not there for here, there in pairs):
        return None
    arithmetic, copying = (float(here) / float(there) for here, there in pairs)  # type: ignore[arg-type]
    basis = f"Time: steps measured on {found['machine']} with torch {found['torch']}, carried over to {device.name} by its own matrix products and copying."
    return Rates(
        {kind: tuple(rate * arithmetic for rate in three) for kind, three in found["macs_s"].items()}, found["compression_macs_s"] * arithmetic,  # type: ignore[misc]
        found["bytes_s"] * copying, found["call_s"] / arithmetic, found["error"], basis,
    )  # fmt: skip
