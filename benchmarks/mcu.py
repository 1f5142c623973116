"""The four MLPerf Tiny int8 models on two emulated boards: size, memory, executed instructions, exactness, accuracy.

    python -m benchmarks.mcu [--json] [--plot] [--quick] [--models ic01,kws01] [--devices stm32l4r5] [--samples N] [--publish]

Every sample goes over the board's UART into the firmware, and what comes back is compared byte by byte with LiteRT's
reference kernels. Instructions are counted, not estimated; the peers' were counted the same way (baselines/mcu.json).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mcu_accuracy
from benchmarks.rows import ROOT, Row, publish, table, to_json

DATA = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data") / "mlperf_tiny"
MODELS = {"ic01": "ic01_resnet8_int8", "kws01": "kws01_dscnn_int8", "vww01": "vww01_mbv1_025_int8", "ad01": "ad01_autoencoder_int8"}
DEVICES = ("stm32l4r5", "stm32f746")
UNITS = {
    "instructions": "instructions", "cycles_est": "cycles", "arena_bytes": "bytes", "ram_total_bytes": "bytes", "text_bytes": "bytes",
    "flash_bytes": "bytes", "exact_fraction": "fraction", "accuracy": "fraction",
}  # fmt: skip
AD_WINDOWS = 196  # windows of 640 values (5 frames x 128 mel bands) a file
AD_STRIDE = 14  # with --quick, every 14th of these is run for the accuracy


@dataclass(frozen=True)
class Samples:
    """Inputs in the model's type with their golden outputs (None: only for the accuracy), and how to score outputs."""

    inputs: np.ndarray  # [n, ...] int8
    golden: np.ndarray  # [m, ...] int8, of the first m inputs
    labels: np.ndarray
    windows: int = 1  # inputs that share one label
    real: np.ndarray | None = None  # float32 [n, ...], the inputs before they were rounded, where the score needs them


def samples_of(model: str, limit: int | None, full: bool) -> Samples:
    """The public samples of one model; `limit` keeps the first so many."""
    if model == "ad01":
        return _ad_samples(full, limit)
    stem = "vww_standin_caltech" if model == "vww01" else model
    data, golden = np.load(DATA / "public" / f"{stem}.npz"), np.load(DATA / "public" / f"{stem}_golden.npz")
    x = data["x"]
    x = x if x.dtype == np.int8 else (x.astype(np.int16) - 128).astype(np.int8)
    n = min(limit or len(x), len(x))
    return Samples(x[:n], golden["int8_ref"][:n], data["y"][:n])


def _ad_samples(full: bool, limit: int | None) -> Samples:
    """Golden windows first (4 files, all windows), then the windows of every file for the anomaly score."""
    data, golden = np.load(DATA / "public" / "ad01.npz"), np.load(DATA / "public" / "ad01_golden.npz")
    scale, zero_point = 0.3910152316093445, 89
    exact, files = _ad_golden(golden)
    picked = range(0, AD_WINDOWS, 1 if full else AD_STRIDE)
    sound = data["x"].reshape(len(data["x"]), -1)  # [files, frames * 128]; unpacked once, for every access to an .npz unpacks anew
    score = [row[128 * i : 128 * i + 640] for row in sound for i in picked]
    first = [sound[k, 128 * i : 128 * i + 640] for k in files for i in range(AD_WINDOWS)]
    if limit:
        first, exact = first[:limit], exact[:limit]
        score = score[: limit * len(picked)]
    # rounded after the zero point is added, in float32: so the golden outputs' inputs were made
    real = np.array(first + score, np.float32)
    x = np.clip(np.round(real / np.float32(scale) + np.float32(zero_point)), -128, 127).astype(np.int8)
    return Samples(x, exact, data["y"][: len(score) // len(picked)], len(picked), real)


def _ad_golden(golden: Any) -> tuple[np.ndarray, list[int]]:
    """int8 outputs [files * windows, 640] and which files they are of."""
    return golden["int8_ref"].reshape(-1, 640), [int(f) for f in golden["int8_ref_files"]]


def measure(model: str, device: str, limit: int | None, full: bool) -> list[Row]:
    """Every metric of one case."""
    import sdk

    plan = sdk.plan(device, str(DATA / "models" / f"{MODELS[model]}.tflite"))
    artifact = sdk.compile(plan)
    cost = artifact.manifest["cost"]
    with artifact.flash("emulator") as session:
        profile = session.profile()
        samples = samples_of(model, limit, full)
        outputs = np.array([np.asarray(y).reshape(-1) for y in session.run_each(samples.inputs)])
        stack = session.board.memory().used_bytes
    exact = samples.golden.reshape(len(samples.golden), -1) == outputs[: len(samples.golden)]
    values = {
        "instructions": profile.instructions,
        "cycles_est": profile.cycles_est,
        "arena_bytes": cost["arena_bytes"],
        "ram_total_bytes": cost["arena_bytes"] + cost["data_bytes"] + cost["bss_bytes"] + stack,
        "text_bytes": cost["text_bytes"],
        "flash_bytes": cost["flash_bytes"],
        "exact_fraction": float(exact.mean()),
        "accuracy": accuracy(samples, outputs),
    }
    peers = json.loads((ROOT / "baselines" / "mcu.json").read_text())["cases"].get(f"{model}@{device}", {})
    return [_row(f"{model}@{device}", metric, value, peers) for metric, value in values.items()]


def _row(case: str, metric: str, value: Any, peers: dict[str, dict[str, float]]) -> Row:
    better = "higher" if metric in ("exact_fraction", "accuracy") else "lower"
    return Row(case, metric, value, UNITS[metric], better, {name: figures[metric] for name, figures in peers.items() if metric in figures})


def accuracy(samples: Samples, outputs: np.ndarray) -> float:
    """Top-1; for ad01 the area under the ROC curve of the mean squared error against the unrounded input, by file."""
    if samples.real is None:
        return float((outputs.argmax(1) == samples.labels).mean())
    start = len(samples.golden)
    real_in = samples.real[start:].astype(np.float64)
    real_out = (outputs[start:].astype(np.float64) - 96) * 0.36449846625328064
    score = ((real_in - real_out) ** 2).mean(1).reshape(-1, samples.windows).mean(1)
    bad, good = score[samples.labels == 1], score[samples.labels == 0]
    if not len(bad) or not len(good):
        return float("nan")
    return float(((bad[:, None] > good[None]) + 0.5 * (bad[:, None] == good[None])).mean())


def run(models: list[str], devices: list[str], limit: int | None, full: bool, jobs: int) -> Iterator[list[Row]]:
    """Rows of each case, as it is done."""
    cases = [(model, device) for device in devices for model in models]
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(measure, model, device, limit, full) for model, device in cases]
        for (model, device), future in zip(cases, futures, strict=True):
            yield future.result()
            if sys.stderr.isatty():
                sys.stderr.write(f"done: {model} on {device}\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--plot", action="store_true", help="redraw docs/mcu.svg")
    parser.add_argument("--publish", action="store_true", help="keep the run in benchmarks/results/mcu.json")
    parser.add_argument("--quick", action="store_true", help="ad01: every 14th window of each file for the accuracy, seconds instead of minutes")
    parser.add_argument("--samples", type=int, help="only the first N samples of each model")
    parser.add_argument("--models", default=",".join(MODELS), help="comma separated: %(default)s")
    parser.add_argument("--devices", default=",".join(DEVICES), help="comma separated: %(default)s")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default %(default)s)")
    args = parser.parse_args()
    unknown = [m for m in args.models.split(",") if m not in MODELS]
    if unknown:
        parser.error(f"model {unknown[0]!r} is not known; choose from {', '.join(MODELS)}")
    if not DATA.is_dir():
        parser.error(f"the models and samples are not in {DATA}; set EMBARQ_SHARED to the folder that holds mlperf_tiny/")
    rows = [row for case in run(args.models.split(","), args.devices.split(","), args.samples, not args.quick, args.jobs) for row in case]
    rows += mcu_accuracy.rows(DATA.parent / "cifar10", count=args.samples) if args.models == ",".join(MODELS) else []
    if args.publish:
        publish("mcu", rows)
    if args.plot:
        from benchmarks.plots import mcu_chart

        mcu_chart(rows, ROOT.parent / "docs" / "mcu.svg")
    print(to_json(rows) if args.json else table(rows))


if __name__ == "__main__":
    main()
