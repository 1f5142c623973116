"""The picture of docs/training.md: how much less is kept for a training step, and how much of the gradient's direction that leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import GREY, INK, THEIRS
from benchmarks.rows import Row

#: method -> (mark, colour, label); a mark each, so that the chart reads without colour too
MARKS = {
    "exact": ("o", "#0b7285", "exact: folded norms, bit masks"),
    "fixed": ("D", "#1864ab", "fixed subspaces"),
    "adapter": ("P", "#862e9c", "subspace adapters"),
    "asi": ("^", "#2f9e44", "subspace iteration (ASI)"),
    "hosvd": ("s", "#e8590c", "HOSVD"),
    "svd": ("v", "#c2255c", "SVD"),
    "published": ("X", "#495057", "HOSVD as published, as stored"),
}
PANELS = (("last12", "last 12 convolutions and the classifier learn"), ("all", "every layer learns"))


def training_chart(rows: Sequence[Row], path: Path, net: str = "mobilenetv2_035_32") -> None:
    """Gradient cosine against how many times fewer bytes are kept, a point a method and eps, a panel a set of layers; into an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "embarq"  # the same rows draw the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4.2), sharey=True)
    for axis, (layers, title) in zip(axes, PANELS, strict=True):
        points = points_of(rows, f"{net}/{layers}/")
        for method, found in points.items():
            mark, colour, label = MARKS[method]
            axis.plot(*zip(*sorted(found), strict=True), color=colour, lw=1, marker=mark, ms=6.5, label=label)
        _dress(axis, title, [x for found in points.values() for x, _ in found])
    axes[0].set_ylabel("cosine to the exact gradient", fontsize=9, color=GREY)
    axes[0].legend(loc="lower left", fontsize=8, frameon=False)
    figure.suptitle("Bytes kept for the backward pass, MobileNetV2-0.35, 32x32 pictures, batch 32: up and to the right is better", color=INK, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def points_of(rows: Sequence[Row], prefix: str) -> dict[str, list[tuple[float, float]]]:
    """Method -> [(times fewer bytes, cosine)] of the cases that start with `prefix`; `fixed@0.8` belongs to `fixed`."""
    values: dict[tuple[str, str], float] = {(r.case, r.metric): r.value for r in rows if r.case.startswith(prefix)}
    found: dict[str, list[tuple[float, float]]] = {}
    for (case, metric), value in values.items():
        method = case.removeprefix(prefix).split("@")[0]
        if metric == "saved_bytes_ratio" and (case, "gradient_cosine") in values and method in MARKS:
            found.setdefault(method, []).append((value, values[case, "gradient_cosine"]))
    return {method: found[method] for method in MARKS if method in found}


def _dress(axis, title: str, ratios: Sequence[float]) -> None:  # type: ignore[no-untyped-def]
    axis.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if min(ratios, default=1) * 0.7 <= t <= max(ratios, default=1) * 1.5]
    axis.set_xticks(ticks, [f"{t}x" for t in ticks])
    axis.minorticks_off()
    axis.grid(color=THEIRS, lw=0.5)
    axis.set_axisbelow(True)
    axis.set_xlabel("times fewer bytes than plain autograd keeps (shared bases not counted)", fontsize=8, color=GREY)
    axis.set_title(title, fontsize=9, color=GREY)
    axis.tick_params(length=0, colors=INK)
    for side in axis.spines.values():
        side.set_visible(False)
