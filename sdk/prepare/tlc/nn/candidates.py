"""Every way to have every stretch of a network, with its cost on the device: as it is, without an activation, merged into one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from sdk.errors import EmbarqError
from sdk.prepare.tlc.choose import Option, Selection, choose
from sdk.prepare.tlc.nn.costs import Cost, Costs, Place
from sdk.prepare.tlc.nn.nodes import shape_of

if TYPE_CHECKING:
    from sdk.prepare.tlc.nn.segments import Segment
    from sdk.prepare.tlc.nn.trace import Site

Tell = Callable[[str], None]
#: A depthwise multiply-accumulate costs up to 3.2 times one of a convolution (`sdk.planner.latency`): a merge that needs more than so many
#: times the multiply-accumulates cannot be faster, and is not planned.
HOPELESS = 4
#: Shares of the channels between two convolutions that may be kept.
NARROWER = (0.875, 0.75, 0.5, 0.25)
#: A merge that the planner says takes more than so many times what it replaces is not run to count its instructions.
DOUBTFUL = 1.2


@dataclass(frozen=True)
class Candidates:
    """Of a dense network on a device: its `plan` and `cost`, every option without an expected loss, the merges that were refused, with the reason."""

    cost: Cost
    plan: Any = field(repr=False)
    ops: tuple[str, ...]
    options: tuple[Option, ...] = field(repr=False)
    segments: dict[str, Segment] = field(repr=False)
    refused: tuple[str, ...] = field(repr=False)

    def standing(self, passing: Mapping[str, int]) -> Selection:
        """The fastest network without the activations `passing`, each with the channels that pass in its place: which merges to make of it, and
        what it is expected to take."""
        return choose([option for option in self.options if realised(option, passing)])


def realised(option: Option, passing: Mapping[str, int]) -> bool:
    """True when all that the option removes is gone, and as narrow as it wants."""
    narrow = not option.keep or passing.get(option.removes[0], option.keep + 1) <= option.keep
    return narrow and all(site in passing for site in option.removes)


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
    for site in sites:
        options += narrower(module, site, ops, places, costs)
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
        options += [option, *_widened(option, behind)]
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


def _widened(option: Option, behind: Mapping[int, Sequence[str]]) -> Iterator[Option]:
    """The option with the activation behind its last operation removed too."""
    yield from (replace(option, removes=(*option.removes, site)) for site in behind.get(option.last - 1, ()) if site not in option.removes)


def narrower(module: fx.GraphModule, site: Site, ops: Sequence[str], places: Sequence[Place], costs: Costs) -> Iterator[Option]:
    """An activation between two plain convolutions, nothing else around it, removed with some of the channels in between gone: two convolutions in a
    row need not be as wide as what they were trained for."""
    pair = between(module, site, ops)
    if pair is None:
        return
    first, shape = pair
    layers = [module.get_submodule(op) for op in ops[first : first + 2]]
    today_s, today_bytes = sum(p.latency_s for p in places[first : first + 2]), max(p.peak_bytes for p in places[first : first + 2])
    before = costs.part(nn.Sequential(*_like(layers, site.channels)), shape)
    for share in NARROWER:
        keep = max(1, round(share * site.channels))
        after = costs.part(nn.Sequential(*_like(layers, keep)), shape)
        latency = today_s - (before.latency_s - after.latency_s)
        peak = today_bytes - max(0, before.peak_bytes - after.peak_bytes)
        if 0 <= latency < today_s:
            yield Option(first, first + 2, latency, peak, 0.0, (site.name,), "", keep)


def between(module: fx.GraphModule, site: Site, ops: Sequence[str]) -> tuple[int, tuple[int, ...]] | None:
    """(position of the convolution in front of the activation, shape of that one's input) where only one stands in front and only the next one
    behind."""
    if not site.exclusive or site.stream or len(site.followers) != 1:
        return None
    first = ops.index(site.sources[0])
    if ops[first + 1 : first + 2] != site.followers:
        return None
    layers = [module.get_submodule(op) for op in (site.sources[0], site.followers[0])]
    if not all(isinstance(layer, nn.Conv2d) and layer.groups == 1 for layer in layers):
        return None
    nodes = {str(node.target): node for node in module.graph.nodes if node.op == "call_module"}
    shape = shape_of(nodes[site.sources[0]].all_input_nodes[0])
    direct = nodes[site.followers[0]].all_input_nodes[0] is nodes[site.name]
    return (first, shape) if direct and shape is not None else None


def _like(layers: Sequence[nn.Module], middle: int) -> Iterator[nn.Conv2d]:
    """Two convolutions of the same windows with `middle` channels in between, and of the same weights: how large they are may decide which kernel
    the board can take."""
    for layer, (inputs, outputs) in zip(layers, ((layers[0].in_channels, middle), (middle, layers[1].out_channels)), strict=True):
        made = nn.Conv2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
        made.weight = nn.Parameter(layer.weight.detach()[:outputs, :inputs].clone())  # type: ignore[operator, union-attr, index]
        yield made


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
    planned_s = sum(p.planned_s for p in places[first:last])
    if costs.counted and _alone(segment) and (merged_s := costs.planned_s(segment)) > DOUBTFUL * planned_s:
        return f"{name}: {1e3 * merged_s:.3g} ms merged and {1e3 * planned_s:.3g} ms today, as planned"
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
    if costs.device.kind == "mcu" and _alone(segment):
        alone = costs.convolution(segment)
        last = places[-1]
        if segment.closes:
            return alone.latency_s, alone.peak_bytes + last.left_bytes
        return alone.latency_s + last.after_s, alone.peak_bytes + last.outside_bytes  # what follows the last operation stays
    before, after = (_part(module, segment, costs, merged) for merged in (False, True))
    return max(0.0, today_s - (before.latency_s - after.latency_s)), after.peak_bytes + max(0, today_bytes - before.peak_bytes)


def _alone(segment: Segment) -> bool:
    """True when a segment becomes one plain two-dimensional convolution and nothing else."""
    return segment.kind == "conv" and len(segment.kernel) == 2 and segment.groups == 1 and min(segment.padding) >= 0


def _part(module: fx.GraphModule, segment: Segment, costs: Costs, merged: bool) -> Cost:
    from sdk.prepare.tlc.nn.segments import part

    made, shape = part(module, segment, merged=merged)
    return costs.part(made, shape)
