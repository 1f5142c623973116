"""What a search asks of a device: how subnets are priced on it, and what there is to spend at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdk.errors import UsageError
from sdk.planner.training.spec import Training
from sdk.prepare.moofa.budget import Budget, Costs, as_budget
from sdk.prepare.moofa.space import Ladder, Subnet, blocks
from targets.device import Device


@dataclass(frozen=True)
class Work:
    """Cost on a computer, whose engines plan memory themselves: the multiply-accumulates of the stem, the blocks and the last 1x1 layer."""

    macs: int
    arena_bytes: int = 0
    flash_bytes: int = 0
    latency_ms: float = 0.0
    training_bytes: int = 0


def work(ladder: Ladder, subnet: Subnet) -> Work:
    """The subnet's work."""
    built = blocks(ladder, subnet)
    last = built[-1]
    macs = 27 * ladder.stem * built[0].side ** 2 + last.outputs * ladder.final * last.side_after**2
    for block in built:
        expand = block.inputs * block.hidden * block.side**2 if block.expands else 0
        macs += expand + block.hidden * block.side_after**2 * (block.kernel**2 + block.outputs)
    return Work(macs)


def pricing(device: Device, ladder: Ladder, classes: int, budget: Budget, channels_last: bool = True, training: Training | None = None) -> Costs:
    """Prices of a ladder's subnets: on a microcontroller the planner's, on a computer work alone.

    training: how the classifier learns on the device; by default `Training(layers="classifier")` where the budget limits it.
    Raises UsageError for a limit that this device has no figure for.
    """
    if device.kind == "mcu":
        from sdk.prepare.moofa.cost import Costs as Planned

        learns = training or (Training(layers="classifier") if "training_bytes" in budget.limits else None)
        return Planned(device, ladder, classes, channels_last, training=learns)
    if other := [name for name in budget.limits if name != "macs"]:
        raise UsageError(f"{device.name} is a computer, for which subnets are priced by work alone; give macs= instead of {other[0]}=")
    return lambda subnet: work(ladder, subnet)


def within(device: Device, budget: Budget | Mapping[str, Any] | int | str | None) -> Budget:
    """The budget, on a microcontroller never of more RAM and flash than it has free; what it has free where nothing is given.

    Raises UsageError for no budget on a computer.
    """
    wish = {} if budget is None else as_budget(budget).limits
    if device.kind != "mcu":
        if not wish:
            raise UsageError(f"{device.name} is a computer with room for any subnet; give a budget of work: macs=")
        return Budget(**wish)  # type: ignore[arg-type]
    from sdk.planner.assess import flash_memory
    from sdk.planner.budget import budget as has

    free = {
        "arena_bytes": max(memory.free_bytes for memory in has(device).memories if memory.kind == "ram" and memory.region >= 0),
        "flash_bytes": flash_memory(device, ()).free_bytes,
    }
    limits: dict[str, Any] = {**wish, **{name: min(size, wish.get(name, size)) for name, size in free.items()}}
    return Budget(**limits)
