"""The chart of the collapsed nets, redrawn from the published rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import GREY, INK, OURS, THEIRS
from benchmarks.rows import Row

PANELS = (("instructions_ratio", "instructions on the board"), ("latency_ratio", "latency on this computer"), ("peak_ram_ratio", "peak RAM on the board"))


def by_case(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """case -> metric -> value, of the cases that have every panel's metric, in the rows' order."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.case, {})[row.metric] = row.value
    return {case: values for case, values in found.items() if all(metric in values for metric, _ in PANELS)}


def chart(rows: Sequence[Row], path: Path) -> None:
    """Three panels of bars, a bar a case, 100 % is the dense net; accuracy lost beside the name. Into an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "embarq"  # the same rows draw the same file
    from matplotlib import pyplot as plt

    cases = by_case(rows)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 1.2 + 0.42 * max(1, len(cases))), sharey=True)
    for axis, (metric, title) in zip(axes, PANELS, strict=True):
        shares = [100 * values[metric] for values in cases.values()]
        places = range(len(cases))
        axis.barh(places, [100] * len(cases), color=THEIRS, height=0.62)
        axis.barh(places, shares, color=OURS, height=0.62)
        for place, share in zip(places, shares, strict=True):
            axis.text(share + 1.5, place, f"{share:.0f} %", va="center", fontsize=9, color=INK)
        axis.set_xlim(0, max(118, *(s + 20 for s in shares)))
        axis.set_xticks([])
        axis.set_title(title, fontsize=9, color=GREY)
        axis.tick_params(length=0, colors=INK)
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0].set_yticks(range(len(cases)), [label(case, values) for case, values in cases.items()], fontsize=8)
    axes[0].invert_yaxis()
    figure.suptitle("Collapsed nets as a share of the dense ones, CIFAR-10 (points: test accuracy lost)", color=INK, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def label(case: str, values: dict[str, float]) -> str:
    """mobilenetv2_035: 10 activations gone, +0.4 points."""
    gone, lost = values.get("activations_removed", 0), values.get("accuracy_drop_points", 0.0)
    return f"{case.split('/')[0]}: {int(gone)} activations gone, {-lost:+.1f} points"
