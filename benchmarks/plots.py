"""The charts in the README, redrawn from rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row

INK, GREY, OURS, THEIRS = "#1f2933", "#7b8794", "#0b7285", "#ced4da"


def mcu_chart(rows: Sequence[Row], path: Path, device: str = "stm32l4r5") -> None:
    """Instructions, total RAM and flash of each model on `device`, as a share of TFLM with CMSIS-NN, into an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "embarq"  # the same rows draw the same file
    from matplotlib import pyplot as plt

    panels = (("instructions", "executed instructions"), ("ram_total_bytes", "RAM: arena, data, stack"), ("flash_bytes", "flash: code and weights"))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.1), sharey=True)
    for axis, (metric, title) in zip(axes, panels, strict=True):
        picked = [r for r in rows if r.metric == metric and r.case.endswith(f"@{device}") and "tflm_cmsis_nn" in r.peers]
        _bars(axis, picked, title)
    figure.suptitle(f"embarq against TFLM + CMSIS-NN on an emulated {device.upper()} (Cortex-M4), outputs equal in every byte", color=INK, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axis, rows: Sequence[Row], title: str) -> None:  # type: ignore[no-untyped-def]
    names = [row.case.split("@")[0] for row in rows]
    shares = [100 * row.value / row.peers["tflm_cmsis_nn"] for row in rows]
    places = range(len(rows))
    axis.barh(places, [100] * len(rows), color=THEIRS, height=0.62, label="TFLM + CMSIS-NN")
    axis.barh(places, shares, color=OURS, height=0.62, label="embarq")
    for place, share in zip(places, shares, strict=True):
        axis.text(min(share, 100) + 1.5, place, f"{share:.0f} %", va="center", fontsize=9, color=INK)
    axis.set_yticks(list(places), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 118)
    axis.set_xticks([])
    axis.set_title(title, fontsize=9, color=GREY)
    axis.tick_params(length=0, colors=INK)
    for side in axis.spines.values():
        side.set_visible(False)


def linux_chart(rows: Sequence[Row], path: Path) -> None:
    """Latency of every contender as a multiple of the best peer's, a panel a precision, into an SVG. Ours is drawn on top."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "embarq"
    from matplotlib import pyplot as plt

    picked = [r for r in rows if r.metric == "ratio_to_best_peer"]
    precisions = sorted({r.case.split("/")[1] for r in picked})
    figure, axes = plt.subplots(1, len(precisions), figsize=(11, 0.6 + 0.33 * len(picked) / max(len(precisions), 1) + 1), squeeze=False)
    for axis, precision in zip(axes[0], precisions, strict=True):
        _ratios(axis, [r for r in picked if r.case.split("/")[1] == precision], precision)
    axes[0][0].legend(loc="upper right", fontsize=8, frameon=False)
    figure.suptitle("Latency as a multiple of the fastest peer, one run on one computer (left is faster)", color=INK, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


#: A mark and a colour for every peer, so that the chart reads without colour too.
PEER_MARKS = {"eager": ("x", "#adb5bd"), "compile": ("+", "#868e96"), "onnx": ("s", "#e8590c"), "litert": ("^", "#2f9e44"), "executorch": ("v", "#9c36b5")}


def _ratios(axis, rows: Sequence[Row], title: str) -> None:  # type: ignore[no-untyped-def]
    labels = ["/".join(row.case.split("/")[::2]) for row in rows]
    for name, (mark, colour) in PEER_MARKS.items():
        points = [(row.peers[name], place) for place, row in enumerate(rows) if name in row.peers]
        if points:
            axis.scatter(*zip(*points, strict=True), marker=mark, color=colour, s=28, label=name)
    axis.scatter([row.value for row in rows], range(len(rows)), color=OURS, s=46, label="embarq", zorder=3)
    axis.axvline(1, color=THEIRS, lw=1, zorder=0)
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 4, 8, 16], ["1x", "2x", "4x", "8x", "16x"])
    axis.minorticks_off()
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9, color=GREY)
    axis.tick_params(length=0, colors=INK)
    for side in axis.spines.values():
        side.set_visible(False)
