"""What would make a model fit that does not, each change tried by planning with it, the best first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sdk.errors import EmbarqError
from sdk.graph.ir import Graph
from sdk.planner.assess import Needs, Wish, assess, lower_all
from sdk.planner.patches import best_patches
from sdk.planner.records import Mend
from sdk.planner.variants import as_int8, at_resolution
from targets.device import Device, device_names, load_device, shipped_path

#: Sizes of the image to try, as parts of the model's own.
RESOLUTIONS = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4)
MOST_BOARDS = 5


def find_mends(wish: Wish, needs: Needs) -> tuple[Mend, ...]:
    """Mends for a wish that does not fit: those that are enough come first, options before changes of the model or board."""
    if wish.device.kind != "mcu":
        return tuple(_linux(wish, needs))
    found: list[Mend] = []
    for source in (_options, _patches, _int8, _resolution, _boards):
        found += source(wish, needs)
    ranked = sorted(enumerate(found), key=lambda item: (not item[1].fits, item[0]))
    return tuple(mend for _, mend in ranked)


def _mend(text: str, needs: Needs, options: Mapping[str, Any] | None = None) -> Mend:
    return Mend(f"{text}: {_verdict(needs)}", needs.fits, needs.ram_bytes, needs.flash_bytes, options or {})


def _verdict(needs: Needs) -> str:
    """What a change comes to: "fits, 96,000 bytes of RAM" or what is still missing."""
    if needs.fits:
        return f"fits, with {sum(needs.arrangement.layout.arena_bytes):,} bytes of arena"
    return "still " + " and ".join(f"{s.over_bytes:,} bytes over in {s.memory}" for s in needs.shortfall)


def _options(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """Wishes that cost memory, given up one by one and then together."""
    changes: list[tuple[str, dict[str, Any]]] = []
    if wish.keep_input:
        changes.append(("let the inference reuse the input's memory (keep_input=False)", {"keep_input": False}))
    if not wish.in_place:
        changes.append(("let outputs overlap dying inputs (in_place=True)", {"in_place": True}))
    if wish.order != "best":
        changes.append(("let the planner choose the order of steps (order='best')", {"order": "best"}))
    if len(changes) > 1:
        together = {key: value for _, change in changes for key, value in change.items()}
        changes.append((" and ".join(text for text, _ in changes), together))
    for text, change in changes:
        tried = assess(replace(wish, calls=needs.calls, **change))
        if tried.over_bytes < needs.over_bytes:
            yield _mend(text, tried, change)


def _patches(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """The first layers patch by patch: the arena by calculation, since no kernel runs that way yet."""
    arena = sum(needs.arrangement.layout.arena_bytes)
    over = sum(s.over_bytes for s in needs.shortfall if s.memory != wish.device.flash.name)
    patched = best_patches(needs.arrangement, arena - over) if over else None
    if patched is None or patched.arena_bytes >= arena:
        return
    flash_over = any(s.memory == wish.device.flash.name for s in needs.shortfall)
    saved = arena - patched.arena_bytes
    enough = saved >= over and not flash_over
    macs = sum(_macs(needs))
    text = (
        f"split the first {patched.layers} layers into {patched.grid}x{patched.grid} patches in the model (up to {patched.output}): "
        f"{'fits, with' if enough else 'still over, with'} {patched.arena_bytes:,} bytes of arena and "
        f"{100 * patched.extra_macs / max(1, macs):.0f} % more multiply-accumulates"
    )
    yield Mend(text, enough, needs.ram_bytes - saved, needs.flash_bytes)


def _macs(needs: Needs) -> Iterator[int]:
    from sdk.planner.latency import node_macs

    graph = needs.arrangement.graph
    return (node_macs(graph, node) for node in graph.nodes)


def _try(wish: Wish, graph: Graph | None) -> Needs | None:
    """The needs of another graph; None where it has no kernels."""
    if graph is None:
        return None
    try:
        return assess(replace(wish, graph=graph, calls=None))
    except EmbarqError:
        return None


def _int8(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """int8 in place of float32, planned on a graph of the right sizes."""
    tried = _try(wish, as_int8(wish.graph))
    if tried is not None and tried.over_bytes < needs.over_bytes:
        yield _mend("quantise to int8 (precision='int8' with calibration data)", tried, {"precision": "int8"})


def _resolution(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """The largest smaller input that fits, or the smallest tried."""
    name = wish.graph.inputs[0] if wish.graph.inputs else ""
    shape = wish.graph[name].shape if name else ()
    if len(shape) != 4 or not any(s.memory != wish.device.flash.name for s in needs.shortfall):
        return
    last: tuple[str, Needs] | None = None
    for part in RESOLUTIONS:
        height, width = (max(8, int(size * part) // 8 * 8) if size >= 16 else max(1, int(size * part)) for size in shape[1:3])
        smaller = at_resolution(wish.graph, height, width) if (height, width) != shape[1:3] else None
        if smaller is None or (_hopeless(wish.device, smaller) and part != RESOLUTIONS[-1]):
            continue
        tried = _try(wish, smaller)
        if tried is not None and tried.over_bytes < needs.over_bytes:
            last = (f"train it for {height}x{width} inputs instead of {shape[1]}x{shape[2]}", tried)
            if all(s.memory == wish.device.flash.name for s in tried.shortfall):
                break  # the RAM suffices, and a smaller input does not help the flash
    if last is not None:
        yield _mend(*last)


def _hopeless(device: Device, graph: Graph) -> bool:
    """True when a look at the sizes is enough: one tensor is larger than every RAM. Cheaper than planning."""
    largest = max((t.size_bytes for t in graph.activations()), default=0)
    return largest > max(bank.usable_bytes for bank in device.arena_regions())


def _boards(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """Shipped boards that hold the model as it is, the smallest RAM first."""
    fitting: list[tuple[int, str]] = []
    known: dict[frozenset[str], Mapping[str, Any] | None] = {wish.device.isa: needs.calls}
    for name in device_names():
        if name == wish.device.name or shipped_path(name).parent.name != "mcu":
            continue
        device = load_device(name)
        weights_fit = sum(t.size_bytes for t in wish.graph.constants()) <= 2 * device.flash.usable_bytes  # equal ones are stored once
        if weights_fit and not _hopeless(device, wish.graph) and _fits_board(wish, device, known):
            fitting.append((sum(m.usable_bytes for m in device.arena_regions()), device.name))
    names = [name for _, name in sorted(fitting)]
    if names:
        more = f" (and {len(names) - MOST_BOARDS} more)" if len(names) > MOST_BOARDS else ""
        text = f"take a board it fits as it is: {', '.join(names[:MOST_BOARDS])}{more}"
        yield Mend(text, True, needs.ram_bytes, needs.flash_bytes, {"device": names[0]})


def _fits_board(wish: Wish, device: Device, known: dict[frozenset[str], Mapping[str, Any] | None]) -> bool:
    if device.isa not in known:
        known[device.isa] = _calls(lambda: lower_all(wish.graph, device.isa))
    calls = known[device.isa]
    return calls is not None and assess(replace(wish, device=device, calls=calls)).fits


def _calls(lower: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    try:
        return lower()
    except EmbarqError:
        return None


def _linux(wish: Wish, needs: Needs) -> Iterator[Mend]:
    """On a computer only the model's own size counts."""
    del needs
    if any(t.dtype == "float32" for t in wish.graph.tensors.values()):
        yield Mend("quantise to int8: a quarter of the bytes for weights and activations", False, 0, 0, {"precision": "int8"})
