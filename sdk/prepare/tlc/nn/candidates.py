"""Every way to have every stretch of a network, with its cost on the device: as it is, without an activation, merged into one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx

from sdk.errors import EmbarqError
from sdk.prepare.tlc.choose import Option, Selection, choose
from sdk.prepare.tlc.nn.costs import Cost, Costs, Place

if TYPE_CHECKING:
    from sdk.prepare.tlc.nn.segments import Segment
    from sdk.prepare.tlc.nn.trace import Site

Tell = Callable[[str], None]
#: A depthwise multiply-accumulate costs up to 3.2 times one of a convolution (`sdk.planner.latency`): a merge that needs more than so many
#: times the multiply-accumulates cannot be faster, and is not planned.
HOPELESS = 4


@dataclass(frozen=True)
class Candidates:
    """Of a dense network on a device: its `plan` and `cost`, every option without an expected loss, the merges that were refused, with the reason."""

    cost: Cost
    plan: Any = field(repr=False)
    ops: tuple[str, ...]
    options: tuple[Option, ...] = field(repr=False)
    segments: dict[str, Segment] = field(repr=False)
    refused: tuple[str, ...] = field(repr=False)

    def standing(self, removed: Iterable[str]) -> Selection:
        """The fastest network whose activations `removed` are gone: which merges to make of it, and what it is expected to take."""
        gone = frozenset(removed)
        return choose([option for option in self.options if gone.issuperset(option.removes)])


def candidates(module: fx.GraphModule, sites: Sequence[Site], costs: Costs, max_kernel: int, tell: Tell) -> Candidates:
    """All options of a canonical network, none removed yet. A merge that is slower, or needs more RAM, than what it replaces is refused."""
    from sdk.prepare.tlc.nn.segments import segments
    from sdk.prepare.tlc.nn.trace import linear_ops

    ops = linear_ops(module)
    tell("planning the network as it is")
    shape = module.meta["example"][0][0]
    plan = costs.plan(module, shape)
    cost, found = costs.priced(plan, module, shape)
    places = _complete(ops, found)
    behind = sites_behind(ops, sites)
    options = [_kept(i, place) for i, place in enumerate(places)]
    options += [_kept(i, place, (site,)) for i, place in enumerate(places) for site in behind.get(i, ())]
    kept: dict[str, Segment] = {}
    refused: list[str] = []
    every = segments(module, max_kernel)
    for number, segment in enumerate(every, 1):
        tell(f"planning merge {number} of {len(every)}")
        option = _merge(module, segment, ops, places, costs)
        if isinstance(option, str):
            refused.append(option)
            continue
        kept[segment.key] = segment
        options += [option, *(_with(option, site) for site in behind.get(option.last - 1, ()) if site not in option.removes)]
    return Candidates(cost, plan, ops, tuple(options), kept, tuple(refused))


def sites_behind(ops: Sequence[str], sites: Iterable[Site]) -> dict[int, tuple[str, ...]]:
    """Position of a linear operation -> the activations that it is the last to feed."""
    where = {name: i for i, name in enumerate(ops)}
    found: dict[int, tuple[str, ...]] = {}
    for site in sites:
        position = max(where[source] for source in site.sources)
        found[position] = (*found.get(position, ()), site.name)
    return found


def _complete(ops: Sequence[str], found: Sequence[Place]) -> list[Place]:
    """A place for each operation in order. What the plan took out, or made part of another, takes nothing."""
    known = {place.name: place for place in found}
    places = [known.get(name, Place(name, 0.0, 0)) for name in ops]
    lost = [place for place in found if place.name not in set(ops)]
    if lost:  # an operation whose name the plan changed: its time must not vanish
        places[0] = Place(places[0].name, places[0].latency_s + sum(p.latency_s for p in lost), max(places[0].peak_bytes, *(p.peak_bytes for p in lost)))
    return places


def _kept(position: int, place: Place, removes: tuple[str, ...] = ()) -> Option:
    return Option(position, position + 1, place.latency_s, place.peak_bytes, removes=removes)


def _with(option: Option, site: str) -> Option:
    return Option(option.first, option.last, option.latency_s, option.peak_bytes, 0.0, (*option.removes, site), option.merged)


def _merge(module: fx.GraphModule, segment: Segment, ops: Sequence[str], places: Sequence[Place], costs: Costs) -> Option | str:
    """The option, or the sentence that says why it is not to be had."""
    where = sorted(ops.index(name) for name in segment.ops)
    first, last = where[0], where[-1] + 1
    name = f"{segment.ops[0]} to {segment.ops[-1]}"
    if where != list(range(first, last)):
        return f"{name}: other layers are computed in between"
    if segment.merged_macs > HOPELESS * segment.macs:
        return f"{name}: {segment.merged_macs:,} multiply-accumulates merged, {segment.macs:,} today"
    today_s, today_bytes = sum(p.latency_s for p in places[first:last]), max(p.peak_bytes for p in places[first:last])
    try:
        latency, peak = _merged(module, segment, places[first:last], costs)
    except EmbarqError as error:
        return f"{name}: {error}"
    if latency >= today_s or peak > today_bytes:
        return f"{name}: {1e3 * latency:.3g} ms and {peak:,} bytes merged, {1e3 * today_s:.3g} ms and {today_bytes:,} bytes today"
    return Option(first, last, latency, peak, 0.0, segment.sites, segment.key)


def _merged(module: fx.GraphModule, segment: Segment, places: Sequence[Place], costs: Costs) -> tuple[float, int]:
    """(seconds, peak bytes) of the stretch with the segment merged; what else is alive meanwhile in the whole network stays alive.

    Two-dimensional convolutions on a board are planned directly. Other parts are planned as modules, as they are and merged: the difference
    counts.
    """
    today_s, today_bytes = sum(p.latency_s for p in places), max(p.peak_bytes for p in places)
    if costs.device.kind == "mcu" and segment.kind == "conv" and len(segment.kernel) == 2 and segment.groups == 1 and min(segment.padding) >= 0:
        alone = costs.convolution(segment)
        last = places[-1]
        if segment.closes:
            return alone.latency_s, alone.peak_bytes + last.left_bytes
        return alone.latency_s + last.after_s, alone.peak_bytes + last.outside_bytes  # what follows the last operation stays
    before, after = (_part(module, segment, costs, merged) for merged in (False, True))
    return max(0.0, today_s - (before.latency_s - after.latency_s)), after.peak_bytes + max(0, today_bytes - before.peak_bytes)


def _part(module: fx.GraphModule, segment: Segment, costs: Costs, merged: bool) -> Cost:
    from sdk.prepare.tlc.nn.segments import part

    made, shape = part(module, segment, merged=merged)
    return costs.part(made, shape)
