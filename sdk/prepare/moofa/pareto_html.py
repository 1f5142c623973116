"""The Pareto front as a picture: SVG, and a page that needs nothing else. The same points give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sdk.planner.report_html import STYLE
from sdk.prepare.moofa.budget import WORDS, Budget, amount, said
from sdk.prepare.moofa.pareto import Point, front

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 430, 64, 24, 18, 46


class _Axes:
    """Where costs and accuracies lie on the picture."""

    def __init__(self, points: Sequence[Point], name: str, budget: Budget | None) -> None:
        costs = [amount(point.cost, name) for point in points]
        if budget and name in budget.limits and budget.limits[name] < 1.5 * max(costs):
            costs.append(budget.limits[name])
        ends = [p.accuracy + sign * 2 * p.deviation for p in points for sign in (-1, 1)]
        self.xs, self.ys = ticks(min(costs), max(costs)), ticks(100 * min(ends), 100 * max(ends))

    def x(self, cost: float) -> float:
        return _LEFT + (cost - self.xs[0]) / (self.xs[-1] - self.xs[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, accuracy: float) -> float:
        return _HEIGHT - _BOTTOM - (100 * accuracy - self.ys[0]) / (self.ys[-1] - self.ys[0]) * (_HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers at equal distances, about `count`, the first at most `low` and the last at least `high`.

    >>> ticks(86.1, 88.7)
    [86.0, 86.5, 87.0, 87.5, 88.0, 88.5, 89.0]
    """
    spread = high - low if high - low > 1e-6 * max(abs(high), 1.0) else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(spread / count))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(spread / s - count))
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    made = [round(i * step, 10) for i in range(first, last + 1)]
    return [int(v) for v in made] if all(v == int(v) for v in made) else made


def front_svg(points: Sequence[Point], name: str = "arena_bytes", budget: Budget | None = None, chosen: Point | None = None) -> str:
    """Every point, the front through the best, the budget's limit, the chosen subnet; colours from the style of the planner's reports."""
    axes = _Axes(points, name, budget)
    label = f"accuracy in percent against {WORDS[name][0]}"
    drawn = [_grid(axes, name), _limit(axes, name, budget), _line(axes, front(points, name), name), *(_mark(axes, p, name) for p in points)]
    if chosen:
        drawn.append(_star(axes.x(amount(chosen.cost, name)), axes.y(chosen.accuracy)))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escape(label)}">{"".join(drawn)}</svg>'


def front_html(title: str, points: Sequence[Point], name: str = "arena_bytes", budget: Budget | None = None, chosen: Point | None = None) -> str:
    """The picture and the front as a table on a page of its own."""
    picture = front_svg(points, name, budget, chosen)
    legend = (
        '<p class=legend>accuracy (%) against cost; hover a point for its subnet.<i style="background:var(--activation0)"></i>measured'
        '<i style="background:var(--scratch)"></i>predicted, with two standard deviations<i style="background:var(--good)"></i>chosen</p>'
    )
    within = f"<p class=sub>Budget: {escape(str(budget))}.</p>" if budget else ""
    head = '<meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    body = f"<h1>{escape(title)}</h1>{within}<div class=card>{picture}{legend}</div><h2>The front</h2>{_table(front(points, name), chosen)}"
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{body}</main></body></html>\n"


def _grid(axes: _Axes, name: str) -> str:
    lines, (bottom, right) = [], (_HEIGHT - _BOTTOM, _WIDTH - _RIGHT)
    for tick in axes.ys:
        y = axes.y(tick / 100)
        lines.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in axes.xs:
        lines.append(f'<text x="{axes.x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,}</text>')
    word, unit = WORDS[name]
    return "".join(lines) + f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(word)}, {escape(unit)}</text>'


def _limit(axes: _Axes, name: str, budget: Budget | None) -> str:
    if not budget or name not in budget.limits or budget.limits[name] > axes.xs[-1]:
        return ""
    x, told = axes.x(budget.limits[name]), escape(said(name, budget.limits[name]))
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="var(--limit)" stroke-dasharray="5 4"><title>{told}</title></line>'
    return line + f'<text x="{x - 6:.1f}" y="{_TOP + 10}" text-anchor="end">budget</text>'


def _line(axes: _Axes, points: Sequence[Point], name: str) -> str:
    """Stairs: between two points the cheaper one is what there is."""
    steps = [f"{axes.x(amount(p.cost, name)):.1f} {axes.y(p.accuracy):.1f}" for p in points]
    path = f"M{steps[0]}" + "".join(f"H{step.split()[0]}V{step.split()[1]}" for step in steps[1:])
    return f'<path d="{path}" fill="none" stroke="var(--activation0)" stroke-width="1.5"/>'


def _mark(axes: _Axes, point: Point, name: str) -> str:
    x, y = axes.x(amount(point.cost, name)), axes.y(point.accuracy)
    told = f"<title>{escape(_told(point))}</title>"
    if point.measured:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="var(--activation0)" fill-opacity=".6">{told}</circle>'
    low, high = (axes.y(point.accuracy + sign * 2 * point.deviation) for sign in (-1, 1))
    bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="var(--scratch)"/>'
    return f'{bar}<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="var(--scratch)">{told}</rect>'


def _star(x: float, y: float) -> str:
    corners = [(x + r * math.sin(math.pi * i / 5), y - r * math.cos(math.pi * i / 5)) for i in range(10) for r in ((9.0, 4.0)[i % 2],)]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in corners)
    return f'<path d="M{path}Z" fill="var(--good)" stroke="var(--card)"/>'


def _told(point: Point) -> str:
    net = point.subnet
    sure = "measured" if point.measured else f"predicted, +- {100 * point.deviation:.1f}"
    costs = ", ".join(said(name, value) for name in WORDS if (value := getattr(point.cost, name, None)))
    return f"{100 * point.accuracy:.2f} % ({sure}); {costs}; {net.resolution} pixels, depths {'-'.join(map(str, net.depths))}"


def _table(points: Sequence[Point], chosen: Point | None) -> str:
    names = [name for name in WORDS if all(getattr(p.cost, name, None) for p in points)]
    head = "".join(f"<th class=n>{escape(' '.join(WORDS[name]))}</th>" for name in names)
    rows = "".join(_row(p, names, chosen is not None and p.subnet == chosen.subnet) for p in points)
    first = "<th class=n>accuracy, %</th><th></th>"
    return f"<div class=card><table><tr>{first}{head}<th class=n>pixels</th><th>depths</th></tr>{rows}</table></div>"


def _row(point: Point, names: Sequence[str], is_chosen: bool) -> str:
    sure = "measured" if point.measured else f"predicted, ± {100 * point.deviation:.1f}"
    cells = "".join(f"<td class=n>{amount(point.cost, name):,.{2 if name == 'latency_ms' else 0}f}</td>" for name in names)
    mark = " class=peak" if is_chosen else ""
    net = point.subnet
    tail = f"<td class=n>{net.resolution}</td><td>{'-'.join(map(str, net.depths))}</td>"
    return f"<tr{mark}><td class=n>{100 * point.accuracy:.2f}</td><td>{sure}</td>{cells}{tail}</tr>"
