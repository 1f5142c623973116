"""How fast torch trains on this machine, by class of layer, and what the training process takes before any model.

    python -m benchmarks.step_rates            # measures, prints the table, writes sdk/planner/training/rates.json

Each class of layer is timed alone (forward, input gradient, weight gradient). Whole steps of three nets then say how much slower
arithmetic and moving of bytes are inside a step, where caches are cold and memory is new: two factors, fitted. The error told is the
factor within which nine of ten steps lie, each net predicted from the others alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from targets.detect import ARCHS

TABLE = Path(__file__).resolve().parent.parent / "sdk" / "planner" / "training" / "rates.json"
BATCH = 16
#: (class, input channels, output channels, kernel, groups, image side)
LAYERS = (
    ("pointwise", 32, 96, 1, 1, 32), ("pointwise", 96, 32, 1, 1, 32), ("pointwise", 192, 64, 1, 1, 8), ("window", 32, 32, 3, 1, 32),
    ("window", 64, 128, 3, 1, 16), ("depthwise", 96, 96, 3, 96, 32), ("depthwise", 192, 192, 3, 192, 8),
    ("dense", 512, 512, 0, 1, 0), ("dense", 1280, 10, 0, 1, 0),
)  # fmt: skip
NETS = (("mobile", 32, 16), ("mobile", 64, 8), ("plain", 32, 16), ("plain", 64, 8), ("residual", 32, 16), ("residual", 64, 8))
PROCESS = """
import os, sys, torch
torch.set_num_threads(1)
from sdk.training.nn.meter import forget_peak, _trim
from tests.training_peaks import trainer
net = trainer("plain", 16, 2, "exact", 99)
net()
import gc; gc.collect(); _trim()
print(forget_peak())
"""


def fastest(run: Callable[[], Any], seconds: float = 0.4) -> float:
    """CPU seconds of the fastest call: what else runs here must not count."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def layer_rates() -> dict[str, tuple[float, float, float]]:
    """Multiply-accumulates a second of (forward, input gradient, weight gradient) for each class: the geometric mean of its layers."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for kind, *layer in LAYERS:
        found.setdefault(kind, []).append(_layer(*layer))
    return {kind: tuple(float(np.exp(np.mean(np.log([row[i] for row in rows])))) for i in range(3)) for kind, rows in found.items()}  # type: ignore[misc]


def _layer(inputs: int, outputs: int, kernel: int, groups: int, side: int) -> tuple[float, float, float]:
    import torch

    from sdk.training.nn import compressors
    from sdk.training.nn.conv_grad import Geometry, conv_input_grad, conv_weight_grad, convolution
    from sdk.training.nn.linear_grad import linear_input_grad, linear_weight_grad

    if not kernel:
        x, w = torch.randn(256, inputs), torch.randn(outputs, inputs)
        y, saved = x @ w.t(), compressors.exact().compress(x)
        runs: tuple[Callable[[], Any], ...] = (lambda: x @ w.t(), lambda: linear_input_grad(y, w), lambda: linear_weight_grad(saved, y))
        macs = 256 * inputs * outputs
    else:
        x, w = torch.randn(BATCH, inputs, side, side), torch.randn(outputs, inputs // groups, kernel, kernel)
        g = Geometry((1, 1), (kernel // 2,) * 4, (1, 1), groups)
        y, saved = convolution(x, w, None, g), compressors.exact().compress(x)
        runs = (lambda: convolution(x, w, None, g), lambda: conv_input_grad(y, w, x.shape, g), lambda: conv_weight_grad(saved, y, g, (kernel, kernel)))
        macs = BATCH * side * side * w.numel()
    forward, back, weight = (macs / fastest(run) for run in runs)
    return forward, back, weight


def other_rates() -> dict[str, float]:
    """Compression's multiply-accumulates a second, bytes a second of element-wise operations, and seconds of a small call."""
    import torch

    from sdk.training.nn import compressors

    x = torch.randn(BATCH, 96, 16, 16)
    basis = torch.linalg.qr(torch.randn(96, 24))[0]
    fixed = compressors.fixed([basis, None, None])
    relu = torch.randn(BATCH, 96, 32, 32)
    small = torch.randn(4)
    return {
        "compression_macs_s": x.numel() * 24 / fastest(lambda: fixed.compress(x)), "bytes_s": 8 * relu.numel() / fastest(lambda: relu.relu()),
        "call_s": fastest(lambda: small.add_(1.0)) * 8,
    }  # fmt: skip


def references(seconds: float = 1.0) -> dict[str, float]:
    """What `embarq calibrate` measures on a device, here: the way from this machine to another."""
    from sdk.runner.rates import copy_rate, product_rate

    return {"memcpy": copy_rate(1, seconds), "numpy/float32": product_rate(1, seconds)}


def measured_steps(rates: Any) -> list[tuple[str, float, float, float]]:
    """(case, seconds of arithmetic, seconds of moving bytes, measured seconds) of whole steps, as the rates of single layers predict."""
    from tests.training_peaks import predicted_seconds, trainer

    rows = []
    for net, side, batch in NETS:
        for method, layers in (("exact", 99), ("exact", 4), ("bias", 99), ("fixed", 99)):
            work = (net, side, batch, method, layers)
            arithmetic = predicted_seconds(*work, replace(rates, bytes_s=1e30))
            rows.append((f"{net}/{side}/{batch}/{method}/{layers}", arithmetic, predicted_seconds(*work, rates) - arithmetic, fastest(trainer(*work))))
    return rows


def fit(rows: list[tuple[str, float, float, float]]) -> np.ndarray:
    """[2]: by how much arithmetic and moving take longer inside a step: least squares of relative errors, neither below 1."""
    parts, measured = np.array([row[1:3] for row in rows]), np.array([row[3] for row in rows])
    grid = np.array(np.meshgrid(np.geomspace(1, 20, 300), np.geomspace(1, 100, 400), indexing="ij")).reshape(2, -1)
    errors = (np.log(parts @ grid / measured[:, None]) ** 2).sum(0)
    return np.asarray(grid[:, int(errors.argmin())])


def step_error(rows: list[tuple[str, float, float, float]]) -> tuple[float, list[tuple[str, float, float]]]:
    """(factor within which nine of ten steps lie, (case, predicted, measured) of each), every net left out of its own fit."""
    told = []
    for case, arithmetic, moving, measured in rows:
        slower = fit([row for row in rows if row[0].split("/")[0] != case.split("/")[0]])
        told.append((case, float(slower @ (arithmetic, moving)), measured))
    factors = sorted(max(p / m, m / p) for _, p, m in told)
    return float(factors[int(np.ceil(0.9 * len(factors))) - 1]), told


def process_bytes() -> int:
    """Resident memory of a process that has trained a tiny net once."""
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True, cwd=TABLE.parents[3])
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measure, print, write."""
    import torch

    from sdk.planner.training.work import Rates

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, Any] = {"macs_s": layer_rates(), **other_rates()}
    steps = measured_steps(Rates(**rates, error=1.0, basis=""))
    error, rows = step_error(steps)
    slower, moving = (float(f) for f in fit(steps))
    rates = {
        "macs_s": {kind: [rate / slower for rate in three] for kind, three in rates["macs_s"].items()}, "bytes_s": rates["bytes_s"] / moving,
        "compression_macs_s": rates["compression_macs_s"] / slower, "call_s": rates["call_s"] * slower,
    }  # fmt: skip
    found = {
        "date": datetime.date.today().isoformat(), "machine": f"{_processor()} ({platform.machine()})", "arch": ARCHS[platform.machine()],
        "torch": str(torch.__version__).split("+")[0], "command": "python -m benchmarks.step_rates", "process_bytes": process_bytes(),
        **rates, "reference": references(), "error": error, "slower_inside_a_step": [slower, moving], "steps": [list(row) for row in rows],
    }  # fmt: skip
    TABLE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    cases = [{"case": case, "metric": "step_s", "value": p, "unit": "s", "better": "lower", "peers": {"measured": m}} for case, p, m in rows]
    print(json.dumps(cases) if asked.json else "\n".join(f"{case:28} predicted {p * 1e3:8.1f} ms  measured {m * 1e3:8.1f} ms" for case, p, m in rows))
    print(f"nine of ten within x/{error:.2f}", file=sys.stderr)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
