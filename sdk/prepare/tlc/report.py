"""What a collapse did, as text and as one self-contained HTML page with a picture of the network's depth. Light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sdk.planner.report_html import STYLE
from sdk.prepare.tlc.records import Figures, Layer, Report, Round

_ROWS: tuple[tuple[str, str, str], ...] = (
    ("linear layers", "layers", "count"), ("activations", "activations", "count"), ("parameters", "parameters", "count"),
    ("multiply-accumulates", "macs", "count"), ("accuracy", "accuracy", "share"), ("latency", "latency_s", "ms"),
    ("peak RAM, planned", "peak_bytes", "bytes"), ("arena, planned", "arena_bytes", "bytes"),
    ("instructions, measured", "measured_instructions", "count"), ("latency, measured", "measured_latency_s", "ms"),
    ("arena, measured", "measured_arena_bytes", "bytes"),
)  # fmt: skip
_WIDTH, _BOX, _GAP, _TOP = 1000, 34, 8, 30


def report_text(report: Report) -> str:
    """A table of before and after, then round by round."""
    lines = [f"{report.name} on {report.device}: {_verdict(report)}", ""]
    lines.append(f"  {'':<24}{'dense':>16}{'collapsed':>16}{'ratio':>9}")
    for title, name, unit in _ROWS:
        before, after = getattr(report.before, name), getattr(report.after, name)
        if before is not None or after is not None:
            lines.append(f"  {title:<24}{_shown(before, unit):>16}{_shown(after, unit):>16}{_ratio(before, after, unit):>9}")
    lines += ["", f"  latencies: {report.basis}"]
    if report.agreement is not None:
        lines.append(f"  P(x > 0) foretold by the criterion and measured: r = {report.agreement:.3f} over all channels")
    if report.merged:
        lines.append(f"  merged to one operation: {'; '.join(report.merged)}; largest difference to the unmerged network {report.merge_error:.1e}")
    if report.refused:
        lines.append(f"  {len(report.refused)} merges were refused, for they are slower or bigger on {report.device}")
    lines += ["", *_round_lines(report.rounds)] if report.rounds else []
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    gone = report.before.activations - report.after.activations
    drop = report.drop_points
    said = "" if drop is None else f" at {drop:+.2f} points" if drop <= 0 else f" for {drop:.2f} points"
    return f"{gone} of {report.before.activations} activations and {report.before.layers - report.after.layers} layers gone{said} ({report.ended})"


def _round_lines(rounds: Sequence[Round]) -> list[str]:
    head = f"  {'round':>5} {'gone':>5} {'refit':>8} {'trained':>8} {'lost':>7} {'latency':>10} {'peak RAM':>10}  activations"
    return [head] + [
        f"  {r.number:>5} {r.removed_in_all:>5} {100 * r.accuracy_before_training:>7.2f}% {100 * r.accuracy:>7.2f}% {r.drop_points:>7.2f} "
        f"{1e3 * r.latency_s:>7.3g} ms {r.peak_bytes:>10,}  {', '.join(r.removed)}"
        for r in rounds
    ]


def _shown(value: float | None, unit: str) -> str:
    match unit:
        case _ if value is None:
            return "-"
        case "share":
            return f"{100 * value:.2f} %"
        case "ms":
            return f"{1e3 * value:.4g} ms"
        case _:
            return f"{int(value):,}"


def _ratio(before: float | None, after: float | None, unit: str) -> str:
    if unit == "share" or not before or after is None:
        return ""
    return f"x{after / before:.3f}"


def report_html(report: Report) -> str:
    """The page. The same report gives the same bytes."""
    title = escape(f"{report.name} collapsed for {report.device}")
    body = [
        f"<h1>{title}</h1><p class=sub>{escape(_verdict(report))}</p>",
        _tiles(report.before, report.after),
        f"<h2>Depth</h2><div class=card>{depth_svg(report.layers)}{_legend()}</div>",
        f"<h2>Before and after</h2>{_table(report)}<p class=sub>Latencies: {escape(report.basis)}.</p>",
        f"<h2>Accuracy and latency, round by round</h2><div class=card>{rounds_svg(report)}</div>{_rounds(report.rounds)}" if report.rounds else "",
        _list("Merged to one operation", report.merged),
        _list(f"Merges refused: slower or bigger on {report.device}", report.refused),
        "<footer>Made by embarq. Method: Till the Layers Collapse, AAAI 2025.</footer>",
    ]
    head = f'<meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{''.join(body)}</main></body></html>\n"


def _tiles(before: Figures, after: Figures) -> str:
    tiles = [
        (f"{before.activations} → {after.activations}", "activations"),
        (f"{before.layers} → {after.layers}", "linear layers"),
        (f"x{after.latency_s / before.latency_s:.2f}" if before.latency_s else "-", "latency"),
        (f"x{after.peak_bytes / before.peak_bytes:.2f}" if before.peak_bytes else "-", "peak RAM, planned"),
    ]
    if before.accuracy is not None and after.accuracy is not None:
        tiles.append((f"{100 * after.accuracy:.2f} %", f"accuracy, {100 * before.accuracy:.2f} % before"))
    return "<div class=tiles>" + "".join(f"<div class=tile><b>{escape(b)}</b><span>{escape(text)}</span></div>" for b, text in tiles) + "</div>"


def depth_svg(layers: Sequence[Layer]) -> str:
    """The dense network as a row of boxes, an activation a dot behind its layer; layers that became one share a frame. Hover for names."""
    per_row = (_WIDTH - _GAP) // (_BOX + _GAP)
    rows = -(-len(layers) // per_row) if layers else 1
    height = rows * (_BOX + _TOP) + _GAP
    parts = [_frame(layers, i, per_row) + _box(layer, i, per_row) for i, layer in enumerate(layers)]
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role=img aria-label="layers before and after">{"".join(parts)}</svg>'


def _corner(index: int, per_row: int) -> tuple[int, int]:
    return _GAP + index % per_row * (_BOX + _GAP), _GAP + index // per_row * (_BOX + _TOP)


def _box(layer: Layer, index: int, per_row: int) -> str:
    x, y = _corner(index, per_row)
    colour = "activation0" if layer.fate == "kept" else "output"
    told = f"{layer.name} ({layer.kind}): {layer.fate if layer.fate == 'kept' else 'merged: ' + layer.fate}"
    dot = ""
    if layer.site:
        on = f"; {layer.on_channels} of {layer.channels} channels pass" if layer.removed else ""
        told += f"; {layer.site} {'removed' if layer.removed else 'kept'}{on}"
        fill = 'fill="none" stroke="var(--bad)" stroke-width="1.5"' if layer.removed else 'fill="var(--scratch)"'
        dot = f'<circle cx="{x + _BOX / 2:g}" cy="{y + _BOX + 9}" r="4.5" {fill}/>'
    box = f'<rect class=buffer x="{x}" y="{y}" width="{_BOX}" height="{_BOX}" rx="4" fill="var(--{colour})" fill-opacity=".85"/>'
    return f"<g>{box}{dot}<title>{escape(told)}</title></g>"


def _frame(layers: Sequence[Layer], index: int, per_row: int) -> str:
    """A bar that joins a merged layer to the one before, where both went into the same operation."""
    here = layers[index]
    if here.fate == "kept" or index == 0 or layers[index - 1].fate != here.fate or index % per_row == 0:
        return ""
    x, y = _corner(index, per_row)
    return f'<rect x="{x - _GAP}" y="{y + 9}" width="{_GAP}" height="{_BOX - 18}" fill="var(--output)"/>'


def _legend() -> str:
    shown = [
        ("activation0", "layer kept"),
        ("output", "layers that became one, joined"),
        ("scratch", "activation kept (dot)"),
        ("bad", "activation removed (ring)"),
    ]
    return f"<p class=legend>{''.join(f'<i style=background:var(--{c})></i>{escape(t)}' for c, t in shown)}</p>"


def rounds_svg(report: Report) -> str:
    """Accuracy over activations gone, a point a round; latency beside it as a share of the dense network's."""
    height, left, base = 220, 60, 185
    gone = [0, *(r.removed_in_all for r in report.rounds)]
    dense_s = report.before.latency_s
    first = report.before.accuracy if report.before.accuracy is not None else report.rounds[0].accuracy
    series = [
        ("accuracy", "good", [first, *(r.accuracy for r in report.rounds)]),
        ("latency, share of dense", "activation0", [1.0, *(r.latency_s / dense_s if dense_s else 1.0 for r in report.rounds)]),
    ]
    across = (_WIDTH - left - 20) / max(1, gone[-1])
    lines = "".join(_axis_line(share, left, base) for share in (0, 0.25, 0.5, 0.75, 1.0))
    for turn, (name, colour, values) in enumerate(series):
        points = [(left + g * across, base - 165 * min(1.1, v)) for g, v in zip(gone, values, strict=True)]
        lines += f'<polyline fill="none" stroke="var(--{colour})" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
        lines += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--{colour})"/>' for x, y in points)
        lines += f'<text x="{left + 10 + 180 * turn}" y="{height - 4}" style="fill:var(--{colour})">{escape(name)}</text>'
    lines += f'<text x="{_WIDTH - 20}" y="{height - 4}" text-anchor="end">{gone[-1]} activations gone</text>'
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role=img aria-label="accuracy and latency by round">{lines}</svg>'


def _axis_line(share: float, left: int, base: int) -> str:
    y = base - 165 * share
    text = f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
    return f'<line x1="{left}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>{text}'


def _table(report: Report) -> str:
    rows = []
    for title, name, unit in _ROWS:
        before, after = getattr(report.before, name), getattr(report.after, name)
        if before is not None or after is not None:
            cells = "".join(f"<td class=n>{escape(text)}</td>" for text in (_shown(before, unit), _shown(after, unit), _ratio(before, after, unit)))
            rows.append(f"<tr><td>{escape(title)}</td>{cells}</tr>")
    head = "<tr><th></th><th class=n>dense</th><th class=n>collapsed</th><th class=n>ratio</th></tr>"
    return f"<div class=card><table>{head}{''.join(rows)}</table></div>"


def _rounds(rounds: Sequence[Round]) -> str:
    names = ("round", "gone", "after refit", "trained", "points lost")
    head = f"<tr>{''.join(f'<th class=n>{name}</th>' for name in names)}<th>removed</th></tr>"
    rows = "".join(
        f"<tr><td class=n>{r.number}</td><td class=n>{r.removed_in_all}</td><td class=n>{100 * r.accuracy_before_training:.2f} %</td>"
        f"<td class=n>{100 * r.accuracy:.2f} %</td><td class=n>{r.drop_points:.2f}</td><td class=name>{escape(', '.join(r.removed))}</td></tr>"
        for r in rounds
    )
    return f"<div class=card><table>{head}{rows}</table></div>"


def _list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>" if items else ""
