"""Peak memory and latency of a recipe on a Linux device, from figures measured per engine and per device.

`engines.json` beside this file holds what was measured of the engines (`python -m benchmarks.engines`), with date, machine and
versions. Memory is linear in what the engine must hold. Time is a roofline: each node takes as long as its arithmetic or its
bytes, whichever is longer, at the rates that `embarq calibrate` measured on the device, times the engine's share of those rates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from sdk.planner.engine_work import NodeWork, Work, work_of
from sdk.planner.linux_records import Latency, PeakMemory
from sdk.planner.recipes import Recipe
from sdk.planner.records import Plan
from targets.device import Device


@cache
def engine_table() -> Mapping[str, Any]:
    """What was measured of the engines; see the module's docstring."""
    return dict(json.loads(resources.files("sdk.planner").joinpath("engines.json").read_text(encoding="utf-8")))


def peak_memory(base: Plan, recipe: Recipe, device: Device) -> PeakMemory | None:
    """Predicted peak resident memory of the process that runs `recipe`; None where the engine was never measured at that precision."""
    engine, figures = _figures(recipe)
    if figures is None:
        return None
    work = work_of(base.graph, sum(base.arena_bytes), recipe.precision)
    return PeakMemory(*memory_parts(work, engine, figures, recipe.threads), basis=memory_basis(device))


def memory_parts(work: Work, engine: Mapping[str, Any], figures: Mapping[str, Any], threads: int) -> tuple[int, int, int]:
    """(engine, weights, activations) in bytes: see `PeakMemory`."""
    process = engine["process_bytes"] + engine["thread_bytes"] * (threads - 1)
    weights = figures["conv_weights"] * work.conv_weights_bytes + figures["other_weights"] * work.other_weights_bytes
    weights += figures["node_bytes"] * len(work.nodes)
    return round(process), round(weights), round(figures["activations"] * work.activations_bytes + figures["windows"] * work.window_bytes)


def memory_basis(device: Device) -> str:
    """Where the memory figures come from, and what they cannot know."""
    table = engine_table()
    versions = ", ".join(f"{name} {entry['version']}" for name, entry in table["engines"].items())
    here = "" if device.core.arch == table["arch"] else f"; {device.name} has other shared libraries, so take it as a guide there"
    return f"Peak memory of a process with one model, fitted to measurements of {table['date']} on {table['machine']} with {versions}{here}."


def latency(base: Plan, recipe: Recipe, device: Device) -> Latency | None:
    """Estimated time of one inference; None where the device's rates were never measured for this engine, precision and threads."""
    _, figures = _figures(recipe)
    rates = {rate.name: rate for rate in device.rates}
    arithmetic, copying = rates.get(recipe.name), rates.get(f"memcpy/{recipe.threads}t")
    fitted = None if figures is None else figures.get("latency")
    if fitted is None or arithmetic is None or copying is None or not arithmetic.macs_s or not copying.bytes_s:
        return None
    nodes = work_of(base.graph, sum(base.arena_bytes), recipe.precision).nodes
    seconds = roofline(nodes, fitted, arithmetic.macs_s, copying.bytes_s)
    basis = f"Time: rates measured on {device.name}, shared out by a roofline; of the models measured, nine of ten lay within the factor."
    unknown = sum(node.op == "opaque" for node in base.graph.nodes)
    if unknown:
        basis += f" The arithmetic of {unknown} unnamed op(s) is not known and only their bytes are counted, so the real time may be longer."
    error = fitted["error"] if recipe.threads == 1 else max(fitted["error"], fitted.get("threads_error", 1.0))
    return Latency(seconds, error, basis)


def roofline(nodes: Iterable[NodeWork], fitted: Mapping[str, float], macs_s: float, copy_bytes_s: float) -> float:
    """Seconds of all nodes. A copied byte is one read and one written, so twice `copy_bytes_s` are moved.

    fitted: `conv`, `depthwise`, `dense`: the share of `macs_s` that such nodes reach (`other` multiplies nothing); `bandwidth`:
    the share of the copying rate (above 1 where values stay in caches); `node_s` for each node, `call_s` for each inference.
    (`error`, and `threads_error` for several threads, are those of models left out of the fit.)
    """
    moved_s = 2 * copy_bytes_s * fitted["bandwidth"]
    each = (max(node.macs / (macs_s * fitted.get(node.kind, 1.0)), node.moved_bytes / moved_s) + fitted["node_s"] for node in nodes)
    return float(fitted["call_s"] + sum(each))


def _figures(recipe: Recipe) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The engine's entry, and its figures at the recipe's precision; None where that was not measured."""
    engine = engine_table()["engines"].get(recipe.engine, {})
    return engine, engine.get("precisions", {}).get(recipe.precision)
