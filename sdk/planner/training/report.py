"""A training plan as a person reads it in a terminal: verdict, where the bytes go, a line a layer, what more memory would give."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from sdk.planner.report import WIDTH, bar
from sdk.planner.training.plan import CLASSES, LayerPlan, TrainingPlan

#: What each class of bytes is.
TOLD = {
    "runtime": "Python, torch and embarq, loaded", "weights": "the model's own weights", "trained": "copies of what learns",
    "optimiser": "momentum, and gradients that are added up", "bases": "fixed bases, whatever the batch", "saved": "kept for the backward pass",
    "undo": "values before the step, until it is over", "transients": "live tensors and workspace at the peak",
}  # fmt: skip


def training_text(plan: TrainingPlan) -> str:
    """The whole plan."""
    parts = [verdict(plan), _bytes(plan), _layers(plan), _curve(plan), _bullets("Decisions", plan.decisions)]
    parts += [_bullets("What would make it fit, best first", [m.text for m in plan.mends]), _basis(plan)]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(plan: TrainingPlan) -> str:
    """One sentence. Example: "net on rpi-4b: training fits, 312.4 MiB of 3.9 GiB, for 86.1 % of the gain of training everything exactly"."""
    if plan.fits:
        text = f"{plan.name} on {plan.device.name}: training fits, {size(plan.peak_bytes)} of {size(plan.budget_bytes)}, "
        text += f"for {100 * plan.gain:.1f} % of the expected gain of training everything exactly"
    else:
        text = f"{plan.name} on {plan.device.name}: training does NOT fit; " + "; ".join(str(s) for s in plan.shortfall)
    if plan.step_time is not None:
        text += f"; an update of {plan.training.batch} samples takes about {seconds(plan.step_time.seconds)} (x/{plan.step_time.error:.1f})"
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")


def _bytes(plan: TrainingPlan) -> str:
    lines = [f"Memory at the peak ({plan.moment})"]
    lines += [f"  {name:11} {plan.bytes[name]:>13,}  {bar(plan.bytes[name], plan.peak_bytes)}  {TOLD[name]}".rstrip() for name in CLASSES if plan.bytes[name]]
    return "\n".join([*lines, f"  {'in all':11} {plan.peak_bytes:>13,}  of {plan.budget_bytes:,}"])


def _layers(plan: TrainingPlan) -> str:
    """A line a layer from the first that learns on; the frozen ones in front in one line."""
    first = next((i for i, row in enumerate(plan.layers) if row.choice.method != "freeze"), len(plan.layers))
    wide = min(40, max(len(row.choice.layer) for row in plan.layers))
    head = f"{'Layer':{wide}}  {'learns by':<14} {'kept':>11} {'bases':>10} {'learning':>11} {'cosine':>6} {'gain':>7}"
    head += f" {'time':>9}" if plan.step_time else ""
    front = [f"{first} layers in front stay as they are" if first > 1 else "1 layer in front stays as it is"] if first else []
    return "\n".join([head, *front, *(layer_line(row, wide) for row in plan.layers[first:])])


def layer_line(row: LayerPlan, wide: int) -> str:
    """One layer as a line of the table."""
    name = row.choice.layer if len(row.choice.layer) <= wide else "…" + row.choice.layer[1 - wide :]
    if row.choice.method == "freeze":
        return f"{name:{wide}}  {'-':<14} {row.saved_bytes:>11,}"
    cosine = f"{row.cosine:.2f}" if row.cosine else "-"
    time = "" if row.step_s is None else f" {seconds(row.step_s):>9}"
    return f"{name:{wide}}  {how(row):<14} {row.saved_bytes:>11,} {row.bases_bytes:>10,} {row.learns_bytes:>11,} {cosine:>6} {100 * row.gain:>5.1f} %{time}"


def how(row: LayerPlan) -> str:
    """"fixed 0.9", "exact", "channels 1/4"."""
    c = row.choice
    if c.method in ("freeze", "bias", "exact", "recompute"):
        return c.method
    return f"channels {c.fraction:g}" if c.method == "channels" else f"{c.method} {c.eps:g}"


def _curve(plan: TrainingPlan) -> str:
    if len(plan.curve) < 2:
        return ""
    lines = ["Beyond runtime   gain, of what everything exactly gives"]
    own = plan.bytes["runtime"]
    for point in plan.curve:
        mark = " <- this plan" if plan.fits and abs(point.gain - plan.gain) < 1e-9 else ""
        lines.append(f"  {size(point.peak_bytes - own):>12}  {bar(round(1000 * point.gain), 1000)}  {layers(point.layers)}{mark}")
    return "\n".join(lines)


def _basis(plan: TrainingPlan) -> str:
    notes = [plan.basis, plan.step_time.basis if plan.step_time else ""]
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes if note)


def _bullets(title: str, lines: Iterable[str]) -> str:
    drawn = [textwrap.fill(line, WIDTH, initial_indent="  - ", subsequent_indent="    ") for line in lines]
    return "\n".join([title, *drawn]) if drawn else ""


def layers(count: int) -> str:
    """"1 layer", "3 layers"."""
    return "1 layer" if count == 1 else f"{count} layers"


def size(count: int) -> str:
    """Bytes as a person says them: "640 bytes", "51.3 KiB", "3.9 GiB"."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def seconds(value: float) -> str:
    """"812 ms", "3.4 s"."""
    return f"{value:,.1f} s" if value >= 1 else f"{1e3 * value:,.3g} ms"
