"""A Linux plan, and what was measured of it, as plain text and as a page."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdk.planner.linux_records import Candidate, LinuxPlan, Measured
from sdk.planner.report import WIDTH, bar

MIB = 1 << 20


def linux_text(plan: LinuxPlan) -> str:
    """Verdict, the model, candidates with predicted memory and time, decisions, mends."""
    parts = [verdict(plan), _model(plan), _candidates(plan), _bullets("Decisions", plan.decisions), _bullets("What would help", [m.text for m in plan.mends])]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(plan: LinuxPlan) -> str:
    """One line. Example: "net on rpi-4b: fits, 61 to 214 MiB of 4,096 MiB"."""
    sizes = [c.memory.total_bytes for c in plan.kept if c.memory is not None]
    if plan.fits and sizes:
        low, high = (f"{s / MIB:,.0f}" for s in (min(sizes), max(sizes)))
        text = f"{plan.name} on {plan.device.name}: fits, {low if low == high else f'{low} to {high}'} MiB of {plan.memory_bytes / MIB:,.0f} MiB"
    elif plan.fits:
        text = f"{plan.name} on {plan.device.name}: can run; its memory is not predicted"
    else:
        text = f"{plan.name} on {plan.device.name}: does NOT fit; " + "; ".join(str(s) for s in plan.shortfall)
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")


def _model(plan: LinuxPlan) -> str:
    weights = sum(t.size_bytes for t in plan.base.graph.constants())
    peak = sum(plan.base.arena_bytes)
    return f"Model    {plan.base.macs:,} multiply-accumulates, {weights:,} bytes of weights, {peak:,} bytes of activations at the peak (float32, by liveness)"


def _candidates(plan: LinuxPlan) -> str:
    """A line a recipe that is not ruled out."""
    rows = [c for c in plan.candidates if c.refusal is None]
    wide = max((len(c.recipe.name) for c in rows), default=6)
    lines = [f"{'Recipe':{wide}}  {'engine':>9} {'weights':>9} {'buffers':>9} {'peak':>9}  {'of the memory':<33} {'estimate':>18}"]
    for c in rows:
        memory = c.memory
        sizes = ["?"] * 4 if memory is None else [_mib(b) for b in (memory.engine_bytes, memory.weights_bytes, memory.activations_bytes, memory.total_bytes)]
        drawn = "" if memory is None else bar(memory.total_bytes, plan.memory_bytes)
        lines.append(f"{c.recipe.name:{wide}}  {sizes[0]:>9} {sizes[1]:>9} {sizes[2]:>9} {sizes[3]:>9}  {drawn:<33} {_latency(c):>18}".rstrip())
    note = next((c.latency.basis for c in rows if c.latency is not None), "")
    memory_note = next((c.memory.basis for c in rows if c.memory is not None), "")
    return "\n".join([*lines, *(textwrap.fill(n, WIDTH, initial_indent="    ", subsequent_indent="    ") for n in (memory_note, note) if n)])


def _latency(candidate: Candidate) -> str:
    if candidate.latency is None:
        return "not calibrated"
    return f"{candidate.latency.seconds * 1e3:,.2f} ms (x/{candidate.latency.error:.1f})"


def _mib(size: int) -> str:
    if size < MIB // 10:
        return f"{size / 1024:,.1f} KiB" if size else "0"
    return f"{size / MIB:,.1f} MiB"


def _ms(value: float) -> str:
    """Milliseconds with about four digits that count."""
    return f"{value:,.{max(0, min(4, 3 - math.floor(math.log10(value))))}f}" if value > 0 else "0"


def _bullets(title: str, lines: Iterable[str]) -> str:
    drawn = [textwrap.fill(line, WIDTH, initial_indent="  - ", subsequent_indent="    ") for line in lines]
    return "\n".join([title, *drawn]) if drawn else ""


def measured_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was measured (`Measured.to_dict` rows), a line a recipe, the chosen one first and marked."""
    if not rows:
        return ""
    wide = max(len(r["recipe"]) for r in rows)
    lines = [f"{'Recipe':{wide}}  {'ms':>9} {'peak':>10} {'file':>10} {'accuracy':>9} {'drop':>6}   measured on {rows[0]['where']}"]
    for r in sorted(rows, key=lambda r: (r["verdict"] != "chosen", r["median_ms"] or float("inf"))):
        time = "-" if r["median_ms"] is None else _ms(r["median_ms"])
        peak = "-" if r["peak_rss_bytes"] is None else _mib(r["peak_rss_bytes"])
        right = "-" if r["accuracy"] is None else f"{100 * r['accuracy']:.2f} %"
        drop = "-" if r["drop_points"] is None else f"{r['drop_points']:.2f}"
        mark = "<- " if r["verdict"] == "chosen" else ""
        lines.append(f"{r['recipe']:{wide}}  {time:>9} {peak:>10} {_mib(r['file_bytes']):>10} {right:>9} {drop:>6}   {mark}{r['verdict']}")
    return "\n".join(lines)


def layers_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What quantising costs each layer, in order of execution, a bar for the noise: the longer, the more of it."""
    if not rows:
        return ""
    wide = min(max(len(r["layer"]) for r in rows), 48)
    lines = [f"{'Layer':{wide}}  {'op':<18} {'SQNR, dB':>9}   everything in front quantised too"]
    for r in rows:
        noise = max(0, min(20, round((45 - r["sqnr_db"]) / 2)))
        lines.append(f"{r['layer'][-wide:]:{wide}}  {r['op']:<18} {r['sqnr_db']:9.1f}   {'▒' * noise}".rstrip())
    return "\n".join(lines)


def linux_html(plan: LinuxPlan, measured: Sequence[Measured] = ()) -> str:
    """One self-contained page: the same text, with a bar for every measured time."""
    fastest = min((r.median_ms for r in measured if r.median_ms), default=1.0)
    slowest = max((r.median_ms for r in measured if r.median_ms), default=1.0)
    bars = "".join(_bar_row(r, slowest, fastest) for r in sorted(measured, key=lambda r: r.median_ms or float("inf")))
    chart = f"<h2>Measured on {html.escape(measured[0].where)}</h2><table>{bars}</table>" if measured else ""
    text = html.escape(linux_text(plan) + ("\n" + measured_text([r.to_dict() for r in measured]) + "\n" if measured else ""))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(plan.name)} on {html.escape(plan.device.name)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}"
        "pre{background:#f4f6f8;padding:1rem;overflow-x:auto;font-size:13px}td{padding:.15rem .6rem;white-space:nowrap}"
        ".b{height:1rem;background:#7c93ab;border-radius:2px}.chosen .b{background:#1f7a4d}.num{text-align:right;font-variant-numeric:tabular-nums}"
        "@media(prefers-color-scheme:dark){body{background:#12181f;color:#dce4ec}pre{background:#1b242e}}</style>"
        f"<h1>{html.escape(plan.name)} on {html.escape(plan.device.name)}</h1>{chart}<h2>Plan</h2><pre>{text}</pre></html>\n"
    )


def _bar_row(row: Measured, slowest: float, fastest: float) -> str:
    kind = ' class="chosen"' if row.verdict == "chosen" else ""
    if row.median_ms is None:
        return f"<tr{kind}><td>{html.escape(row.recipe.name)}</td><td></td><td></td><td>{html.escape(row.verdict)}</td></tr>"
    width = max(2, round(360 * row.median_ms / slowest))
    return (
        f'<tr{kind}><td>{html.escape(row.recipe.name)}</td><td class="num">{_ms(row.median_ms)} ms</td>'
        f'<td><div class="b" style="width:{width}px"></div></td><td>{row.median_ms / fastest:.2f}x, {html.escape(row.verdict)}</td></tr>'
    )
