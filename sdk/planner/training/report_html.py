"""A training plan as one HTML page that needs nothing else: memory against expected gain, where the bytes go, a row a layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from sdk.planner.report_html import STYLE
from sdk.planner.training.plan import CLASSES, CurvePoint, LayerPlan, TrainingPlan
from sdk.planner.training.report import TOLD, how, seconds, size

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 340, 64, 24, 18, 46
#: How much finer the axis of memory is at its small end.
_BEND = 300.0
#: Colour of each class of bytes, from the house's palette.
COLOURS = {
    "runtime": "input", "weights": "activation1", "trained": "state", "optimiser": "state", "bases": "output", "saved": "activation0", "undo": "scratch",
    "transients": "scratch",
}  # fmt: skip


def training_html(plan: TrainingPlan) -> str:
    """The page. The same plan gives the same bytes."""
    title = escape(f"{plan.name} learns on {plan.device.name}")
    body = [
        f"<h1>{title}</h1><p class=sub>{escape(plan.device.title or plan.device.name)}</p>", _verdict(plan), _tiles(plan),
        _list("What would make it fit, best first", [m.text for m in plan.mends]),
        f"<h2>Memory against expected gain</h2><div class=card>{curve_svg(plan)}{_curve_note()}</div>" if len(plan.curve) > 1 else "",
        f"<h2>Memory at the peak</h2>{_bytes(plan)}", f"<h2>Layers</h2>{_layers(plan.layers)}", _list("Decisions", plan.decisions),
        f"<footer>Made by embarq. {escape(' '.join(note for note in (plan.basis, plan.step_time.basis if plan.step_time else '') if note))}</footer>",
    ]  # fmt: skip
    head = f'<meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{''.join(body)}</main></body></html>\n"


def _verdict(plan: TrainingPlan) -> str:
    if plan.fits:
        return f'<p class="verdict good">It fits {size(plan.budget_bytes)}.</p>'
    return f'<p class="verdict bad">It does not fit: {escape("; ".join(str(s) for s in plan.shortfall))}.</p>'


def _tiles(plan: TrainingPlan) -> str:
    learning = len(plan.choices)
    tiles = [
        (size(plan.peak_bytes), f"peak of the process, of {size(plan.budget_bytes)}"), (f"{100 * plan.gain:.1f} %", "of the gain of everything exactly"),
        (f"{learning} of {len(plan.layers)}", "layers learn"), (size(sum(row.saved_bytes for row in plan.layers)), "kept for backward"),
        (f"{plan.micro_batch} of {plan.training.batch}", "samples at once"), (size(plan.smallest_bytes), "is the smallest budget"),
        *([(f"~{seconds(plan.step_time.seconds)}", f"an update, within x/{plan.step_time.error:.1f}")] if plan.step_time else []),
    ]  # fmt: skip
    return "<div class=tiles>" + "".join(f"<div class=tile><b>{b}</b><span>{escape(text)}</span></div>" for b, text in tiles) + "</div>"


def curve_svg(plan: TrainingPlan) -> str:
    """Gain over peak memory: a step line through the points, the budget, and this plan."""
    own = plan.bytes["runtime"]
    low = min(plan.curve[0].peak_bytes, plan.peak_bytes)
    span = max(plan.curve[-1].peak_bytes - low, plan.peak_bytes - low, 1)
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    top = max(1e-9, *(point.gain for point in plan.curve))

    def place(peak: int, gain: float) -> tuple[float, float]:
        return _LEFT + plot_w * _share(peak - low, span), _TOP + plot_h * (1 - gain / top)

    marks = "".join(_mark(point, own, *place(point.peak_bytes, point.gain)) for point in plan.curve)
    budget = place(plan.budget_bytes, 0)[0] if low <= plan.budget_bytes <= low + span else None
    here = place(plan.peak_bytes, plan.gain) if plan.fits else None
    path = _steps([place(p.peak_bytes, p.gain) for p in plan.curve])
    drawn = f'{_axes(low - own, span, top)}<path d="{path}" fill="none" stroke="var(--activation0)" stroke-width="2"/>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="expected gain over peak memory">{drawn}{_budget(budget)}{marks}{_here(here)}</svg>'


def _share(more: int, span: int) -> float:
    """Where on the axis: nearly a logarithm, since the first bytes buy most."""
    return math.log1p(_BEND * max(more, 0) / span) / math.log1p(_BEND)


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """A gain holds until the memory of the next."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for x, y in points[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return path


def layers_learn(count: int) -> str:
    """"1 layer learns", "3 layers learn"."""
    return "1 layer learns" if count == 1 else f"{count} layers learn"


def _mark(point: CurvePoint, own: int, x: float, y: float) -> str:
    label = f"{size(point.peak_bytes - own)} beyond the runtime: {100 * point.gain:.1f} % of the gain, {layers_learn(point.layers)}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--activation0)"><title>{escape(label)}</title></circle>'


def _budget(x: float | None) -> str:
    if x is None:
        return ""
    anchor = "end" if x > _WIDTH - 160 else "start"
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="var(--limit)" stroke-dasharray="5 4"/>'
    return f'{line}<text x="{x + (-6 if anchor == "end" else 6):.1f}" y="{_HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">budget</text>'


def _here(place: tuple[float, float] | None) -> str:
    if place is None:
        return ""
    x, y = place
    anchor = "end" if x > _LEFT + 120 else "start"  # the budget's line is to the right
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="var(--good)" stroke-width="3"/>'
    return f'{circle}<text x="{x + (-14 if anchor == "end" else 14):.1f}" y="{max(y + 22, _TOP + 22):.1f}" text-anchor="{anchor}">this plan</text>'


def _axes(low: int, span: int, top: float) -> str:
    lines, plot_h = [], _HEIGHT - _TOP - _BOTTOM
    for quarter in range(5):
        y, x = _TOP + plot_h * (1 - quarter / 4), _LEFT + (_WIDTH - _LEFT - _RIGHT) * quarter / 4
        anchor = "start" if quarter == 0 else "end" if quarter == 4 else "middle"
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * top * quarter / 4:.0f} %</text>')
        here = low + round(span * math.expm1(math.log1p(_BEND) * quarter / 4) / _BEND)
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="{anchor}">{size(here)}</text>')
    return "".join(lines) + f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">peak memory beyond the runtime</text>'


def _curve_note() -> str:
    text = "gain: expected decrease of the loss for one small step, as a share of training every layer exactly; hover a point for its layers."
    return f"<p class=legend>{text}</p>"


def _bytes(plan: TrainingPlan) -> str:
    peak = max(plan.peak_bytes, 1)
    present = [(name, plan.bytes[name], 100 * plan.bytes[name] / peak) for name in CLASSES if plan.bytes[name]]
    parts = "".join(f'<i style="width:{share:.3f}%;background:var(--{COLOURS[n]})" title="{n} {count:,} bytes"></i>' for n, count, share in present)
    rows = "".join(f"<tr><td>{n}</td><td class=n>{count:,}</td><td class=n>{share:.1f} %</td><td>{TOLD[n]}</td></tr>" for n, count, share in present)
    head = "<tr><th>class</th><th class=n>bytes</th><th class=n>share</th><th>what it is</th></tr>"
    return f"<div class=card><div class=bar>{parts}</div><table>{head}{rows}</table><p class=legend>the highest moment: {escape(plan.moment)}</p></div>"


def _layers(rows: Sequence[LayerPlan]) -> str:
    head = "<tr><th>layer</th><th>op</th><th>weights</th><th>learns by</th><th class=n>kept</th><th class=n>bases</th><th class=n>learning</th>"
    head += "<th class=n>cosine</th><th>gain</th></tr>"
    most = max([1e-12, *(row.gain for row in rows)])
    first = next((i for i, row in enumerate(rows) if row.choice.method != "freeze"), len(rows))
    front = f"<tr><td colspan=9>{first} layers in front, up to {escape(rows[first - 1].choice.layer)}, stay as they are</td></tr>" if first else ""
    return f"<div class=card><table>{head}{front}{''.join(_layer(row, most) for row in rows[first:])}</table></div>"


def _layer(row: LayerPlan, most: float) -> str:
    frozen = row.choice.method == "freeze"
    bar = f'<div class=bar style="min-width:80px"><i style="width:{100 * row.gain / most:.2f}%;background:var(--good)"></i></div>{100 * row.gain:.1f} %'
    cells = [f"{row.saved_bytes:,}", f"{row.bases_bytes:,}" if row.bases_bytes else "", f"{row.learns_bytes:,}" if row.learns_bytes else "",
             f"{row.cosine:.2f}" if row.cosine else ""]  # fmt: skip
    numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells)
    shape = "×".join(map(str, row.record.weight_shape))
    return (
        f"<tr><td class=name>{escape(row.choice.layer)}</td><td>{row.record.op}</td><td>{shape}</td><td>{'–' if frozen else escape(how(row))}</td>"
        f"{numbers}<td>{'' if frozen else bar}</td></tr>"
    )


def _list(title: str, sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""
