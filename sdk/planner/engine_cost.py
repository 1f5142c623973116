"""Peak memory and latency of a recipe on a Linux device, from figures measured per engine and per device."""

from __future__ import annotations

from sdk.planner.linux_records import Latency, PeakMemory
from sdk.planner.recipes import Recipe
from sdk.planner.records import Plan
from targets.device import Device


def peak_memory(base: Plan, recipe: Recipe, device: Device) -> PeakMemory | None:
    """Predicted peak resident memory of the process that runs `recipe`; None where the engine was never measured."""
    return None


def latency(base: Plan, recipe: Recipe, device: Device) -> Latency | None:
    """Estimated time of one inference; None where the device's rates were never measured."""
    return None
