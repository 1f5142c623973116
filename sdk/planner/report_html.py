"""A plan as one HTML page that needs nothing else: memory map over time, tables, decisions. Light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from sdk.planner.arrange import Placement
from sdk.planner.records import MemoryUse, Plan, PlanStep
from sdk.planner.report import clip, in_time, peak_step, seconds

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 1000, 320, 78, 14, 34

#: Colours that differ in lightness too, so that they tell without colour; the dark set is lighter on dark ground.
STYLE = """
:root{color-scheme:light dark;--ground:#fcfcfb;--card:#fff;--ink:#1d2126;--soft:#646c76;--line:#dfe2e6;--good:#1a7f4b;--bad:#b3261e;
--input:#8a93a0;--output:#2f9e7a;--activation0:#4a7fd0;--activation1:#85aee8;--scratch:#d9913a;--state:#8d6cc4;--limit:#b3261e}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1b1f25;--ink:#e6e8eb;--soft:#98a1ac;--line:#2f353d;--good:#5cc98f;
--bad:#f2877f;--input:#7d8794;--output:#3fb58f;--activation0:#4f86d9;--activation1:#2f5797;--scratch:#e0a458;--state:#a58be0;--limit:#f2877f}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px}
.sub{color:var(--soft);margin:0 0 18px}.verdict{font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:8px}.tile{padding:12px 14px}
.tile b{display:block;font-size:21px;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
.card{padding:10px;overflow-x:auto}svg{display:block;width:100%;height:auto;min-width:640px}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg rect.buffer{stroke:var(--card);stroke-width:1}svg rect.buffer:hover{stroke:var(--ink)}
.legend{color:var(--soft);font-size:13px;margin:8px 2px 0}
.legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 5px -1px 14px}
table{border-collapse:collapse;width:100%;font-size:14px}th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.name{overflow-wrap:anywhere}tr:last-child td{border-bottom:0}tr.peak td{font-weight:600}
.bar{display:flex;height:14px;border-radius:3px;overflow:hidden;background:var(--line);min-width:160px}.bar i{display:block;height:100%}
ul{margin:0;padding-left:20px}li{margin:4px 0}footer{color:var(--soft);font-size:13px;margin-top:40px}
"""
#: Colour of each part of a memory.
PARTS = {
    "arena": "activation0", "weights": "activation0", "code": "activation1", "stack": "scratch", "data": "state", "parameters": "state",
    "tables": "output", "reserved": "input", "update slots": "input",
}  # fmt: skip


def plan_html(plan: Plan) -> str:
    """The page. The same plan gives the same bytes."""
    title = escape(f"{plan.name} on {plan.device.name}")
    body = [
        f"<h1>{title}</h1><p class=sub>{escape(plan.device.title or plan.device.name)} · {escape(plan.backend)}</p>",
        _verdict(plan),
        _tiles(plan),
        "<h2>Memories</h2>" + _memories(plan.memories),
        *(_map(plan, region) for region, size in enumerate(plan.arena_bytes) if size),
        _list("What would make it fit, best first", [m.text for m in plan.mends]),
        _list("Decisions", plan.decisions),
        "<h2>Steps</h2>" + _steps(plan) if plan.steps else "",
        f"<footer>Made by embarq. Work: {escape(plan.cost.basis)}.</footer>",
    ]
    head = '<meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">'
    head += f"<title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{''.join(body)}</main></body></html>\n"


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return '<p class="verdict good">It fits.</p>'
    return f'<p class="verdict bad">It does not fit: {escape("; ".join(str(s) for s in plan.shortfall))}.</p>'


def _tiles(plan: Plan) -> str:
    latency = plan.cost.latency_s
    tiles = [
        (f"{sum(plan.arena_bytes):,}", f"bytes of arena (lower bound {plan.lower_bound_bytes:,})"),
        (f"{plan.ram_bytes:,}", "bytes of RAM in all"),
        *([(f"{plan.flash_bytes:,}", "bytes of flash"), (f"{plan.stack_bytes:,}", "bytes of stack at most")] if plan.flash else []),
        (f"{plan.macs / 1e6:,.3g} M", "multiply-accumulates"),
        *([(f"~{seconds(latency)}", f"at {plan.cost.clock_hz / 1e6:g} MHz, estimated")] if latency is not None else []),
    ]
    return "<div class=tiles>" + "".join(f"<div class=tile><b>{b}</b><span>{escape(text)}</span></div>" for b, text in tiles) + "</div>"


def _memories(memories: Sequence[MemoryUse]) -> str:
    rows = []
    for m in memories:
        whole = max(m.size_bytes, m.used_bytes, 1)
        bar = "".join(_part(what, size, 100 * size / whole) for what, size in m.parts)
        over = m.used_bytes - m.size_bytes
        free = f"<span class=bad>{over:,} over</span>" if over > 0 else f"{m.free_bytes:,}"
        inside = ", ".join(f"{what} {size:,}" for what, size in m.parts if size)
        rows.append(
            f"<tr><td>{escape(m.name)}</td><td class=n>{m.size_bytes:,}</td><td class=n>{m.used_bytes:,}</td><td class=n>{free}</td>"
            f"<td><div class=bar>{bar}</div><span class=sub>{escape(inside)}</span></td></tr>"
        )
    head = "<tr><th>memory</th><th class=n>bytes</th><th class=n>used</th><th class=n>free</th><th>what lies there</th></tr>"
    return f"<div class=card><table>{head}{''.join(rows)}</table></div>"


def _part(what: str, size: int, percent: float) -> str:
    colour = PARTS.get(what, "state")
    return f'<i style="width:{percent:.3f}%;background:var(--{colour})" title="{escape(what)} {size:,} bytes"></i>'


def _map(plan: Plan, region: int) -> str:
    """One region over time as SVG: a column a step, offset 0 at the bottom, every buffer a box with its name on hovering."""
    size, count = plan.arena_bytes[region], max(1, len(plan.steps))
    memory = next(m.name for m in plan.memories if m.region == region)
    column, plot = (_WIDTH - _LEFT - 8) / count, _HEIGHT - _TOP - _BOTTOM
    boxes = [_box(p, turn, size, column, plot) for p, turn in in_time(plan, region)]
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="memory map over time of {escape(memory)}">{_axis(size, plot)}'
        f"{''.join(boxes)}{_peak_mark(plan, column)}</svg>"
    )
    return f"<h2>Arena in {escape(memory)} over time, {size:,} bytes, {count} steps</h2><div class=card>{svg}{_legend(plan, region)}</div>"


def _peak_mark(plan: Plan, column: float) -> str:
    """A small triangle under the peak, with its node's name."""
    if not plan.steps:
        return ""
    peak = peak_step(plan)
    x = _LEFT + (peak + 0.5) * column
    name = escape(clip(plan.steps[peak].node, 60))
    return (
        f'<path d="M{x:.1f} {_HEIGHT - _BOTTOM + 3}l5 9h-10z" fill="var(--bad)"/>'
        f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{_anchor(x)}">peak: {name}</text>'
    )


def _anchor(x: float) -> str:
    return "start" if x < 200 else "end" if x > _WIDTH - 200 else "middle"


def _box(p: Placement, turn: int, size: int, column: float, plot: int) -> str:
    colour = f"activation{turn % 2}" if p.kind == "activation" else p.kind
    x, width = _LEFT + p.first_step * column, (p.last_step - p.first_step + 1) * column
    height = p.size_bytes * plot / size
    y = _TOP + plot - (p.offset + p.size_bytes) * plot / size
    label = f"{p.kind} {p.tensor}: {p.size_bytes:,} bytes at {p.offset:,}, steps {p.first_step} to {p.last_step}"
    return (
        f'<rect class=buffer x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{max(height, 0.5):.2f}" fill="var(--{colour})" '
        f'fill-opacity=".85"><title>{escape(label)}</title></rect>'
    )


def _axis(size: int, plot: int) -> str:
    lines = []
    for quarter in range(5):
        y = _TOP + plot - quarter * plot / 4
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{size * quarter // 4:,}</text>')
    return "".join(lines)


def _legend(plan: Plan, region: int) -> str:
    kinds = {p.kind for p, _ in in_time(plan, region)}
    names = [("input", "input"), ("activation0", "activation"), ("output", "output"), ("scratch", "scratch"), ("state", "state")]
    shown = "".join(f'<i style="background:var(--{c})"></i>{name}' for c, name in names if name in kinds)
    return f"<p class=legend>bytes from the bottom, steps from the left; hover a box for its tensor.{shown}</p>"


def _list(title: str, sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _steps(plan: Plan) -> str:
    peak = peak_step(plan)
    head = (
        "<tr><th class=n>#</th><th>node</th><th>op</th><th>writes</th><th class=n>live bytes</th><th class=n>scratch</th>"
        "<th class=n>MACs</th><th class=n>cycles</th></tr>"
    )
    rows = "".join(_step(step, step.index == peak, plan.cost.cycles) for step in plan.steps)
    return f"<div class=card><table>{head}{rows}</table></div>"


def _step(step: PlanStep, is_peak: bool, cycles: int) -> str:
    share = f" ({100 * step.cycles / cycles:.0f} %)" if cycles else ""
    shape = "×".join(map(str, step.shape))
    return (
        f"<tr{' class=peak' if is_peak else ''}><td class=n>{step.index}</td><td class=name>{escape(step.node)}</td>"
        f'<td title="{escape(step.function)}">{escape(step.op)}</td><td>{escape(step.dtype)} {shape}</td>'
        f"<td class=n>{step.live_bytes:,}</td><td class=n>{step.scratch_bytes:,}</td><td class=n>{step.macs:,}</td>"
        f"<td class=n>{step.cycles:,}{share}</td></tr>"
    )
