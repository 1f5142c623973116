"""The chart of the two small supernets: accuracy against the RAM that is planned for a subnet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import GREY, INK, OURS
from benchmarks.rows import Row

NAMES = {"small-ofa": ("MobileNet's widths", "#868e96"), "small-moofa": ("equal-memory widths", OURS)}


def moofa_chart(rows: Sequence[Row], path: Path) -> None:
    """Test accuracy in int8 of the subnets found for each budget over their planned arena, work beside each point, into an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "embarq"  # the same rows draw the same file
    from matplotlib import pyplot as plt

    known = {(r.case, r.metric): r.value for r in rows}
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for ladder, (label, colour) in NAMES.items():
        cases = sorted({c for c, m in known if c.startswith(f"{ladder}@") and m == "accuracy"}, key=lambda c: known[c, "arena_bytes"])
        if not cases:
            continue
        x, y = [known[c, "arena_bytes"] / 1024 for c in cases], [100 * known[c, "accuracy"] for c in cases]
        axis.plot(x, y, "o-", color=colour, label=label, linewidth=1.5, markersize=5)
        for case, left, top in zip(cases, x, y, strict=True):
            axis.annotate(f"{known[case, 'macs'] / 1e6:.1f} M", (left, top), xytext=(4, -11), textcoords="offset points", fontsize=7.5, color=colour)
    axis.margins(y=0.12)  # room for the labels under the points
    axis.set_xlabel("planned RAM, KiB (MACs beside each point)", color=GREY, fontsize=9)
    axis.set_ylabel("int8 accuracy, CIFAR-10 test, %", color=GREY, fontsize=9)
    axis.set_title("The best subnet for each budget on an STM32F746", color=INK, fontsize=10)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
