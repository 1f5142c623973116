"""What int8 costs two CIFAR-10 nets in accuracy, and what they take on an emulated board.

    python -m benchmarks.mcu_accuracy [--json] [--images N] [--models mcunet_like] [--range mse]

The float net is judged by torch, the int8 model by the graph's own meaning in numpy; the emulated board then computes a sample
of the same images, and its bytes must be those. Ranges are calibrated on training images, never on test images.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small_nets
from benchmarks.rows import ROOT, Row, table, to_json
from benchmarks.train_small import accuracy as float_accuracy
from benchmarks.train_small import images

BOARD = "stm32h743"
DATA = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data") / "cifar10"
CALIBRATION = 512  # training images
PROVEN = 20  # test images that the emulated board computes as well
_BATCH = 50
UNITS = {
    "accuracy": "fraction", "accuracy_float": "fraction", "accuracy_drop_points": "points", "exact_fraction": "fraction",
    "instructions": "instructions", "arena_bytes": "bytes", "flash_bytes": "bytes",
}  # fmt: skip


def rows(data: Path = DATA, models: tuple[str, ...] = tuple(small_nets.NETS), count: int | None = None, quant: dict[str, Any] | None = None) -> list[Row]:
    """Every metric of every net, on `count` test images (all by default); `data` holds the two CIFAR-10 packs."""
    return [row for name in models for row in _case(name, data, count, quant)]


def _case(name: str, data: Path, count: int | None, quant: dict[str, Any] | None) -> list[Row]:
    import sdk

    x, y = images(data / "cifar10_jpeg_test.npz", count)
    plan = int8_plan(name, data, quant)
    logits = int8_outputs(plan.graph, x)
    real, found = float_accuracy(small_nets.pretrained(name), x, y), float((logits.argmax(1) == y).mean())
    artifact = sdk.compile(plan)
    cost = artifact.manifest["cost"]
    with artifact.flash("emulator") as session:
        picked = np.linspace(0, len(x) - 1, min(PROVEN, len(x))).round().astype(int)
        board = np.array([np.asarray(out).reshape(-1) for out in session.run_each(int8_inputs(plan.graph, x[picked]))])
        instructions = session.profile().instructions
    values = {
        "accuracy": found,
        "accuracy_float": real,
        "accuracy_drop_points": round(100 * (real - found), 4),
        "exact_fraction": float((board == logits[picked]).mean()),
        "instructions": instructions,
        "arena_bytes": cost["arena_bytes"],
        "flash_bytes": cost["flash_bytes"],
    }
    better = {"accuracy": "higher", "accuracy_float": "higher", "exact_fraction": "higher"}
    return [Row(f"{name}@{BOARD}", metric, value, UNITS[metric], better.get(metric, "lower")) for metric, value in values.items()]


def int8_plan(name: str, data: Path, quant: dict[str, Any] | None = None) -> Any:
    """The net planned for the board in int8, calibrated on training images; it reads pictures channels last."""
    import torch

    import sdk

    model = sdk.load(small_nets.pretrained(name), example=torch.zeros(small_nets.INPUT_SHAPE), name=name, input_layout="nhwc")
    calibration = to_real(images(data / "cifar10_jpeg_train.npz", CALIBRATION)[0])
    return sdk.plan(BOARD, model, calibration=calibration, quant=quant)


def to_real(x: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32, 3] -> float32 in [0, 1]."""
    return (x / 255).astype(np.float32)


def int8_inputs(graph: Any, x: np.ndarray) -> np.ndarray:
    """uint8 pictures [N, 32, 32, 3] in the graph's int8."""
    from sdk.golden import quantise_array

    return quantise_array(graph[graph.inputs[0]], to_real(x))


def int8_outputs(graph: Any, x: np.ndarray) -> np.ndarray:
    """int8 logits [N, 10] of uint8 pictures [N, 32, 32, 3], as the graph defines them."""
    from sdk.graph.interpreter import run

    q = int8_inputs(graph, x)
    parts = [run(graph, {graph.inputs[0]: q[i : i + _BATCH]})[graph.outputs[0]] for i in range(0, len(q), _BATCH)]
    return np.concatenate(parts)


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcu_accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--images", type=int, help="only so many test images")
    parser.add_argument("--models", default=",".join(small_nets.NETS), help="comma separated: %(default)s")
    parser.add_argument("--range", default="minmax", help="how ranges are chosen: minmax, percentile or mse (default %(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models.split(",") if name not in small_nets.NETS]
    if unknown:
        parser.error(f"model {unknown[0]!r} is not known; choose from {', '.join(small_nets.NETS)}")
    if not DATA.is_dir():
        parser.error(f"the pictures are not in {DATA}; set EMBARQ_SHARED to the folder that holds cifar10/")
    torch.set_num_threads(1)
    found = rows(DATA, tuple(args.models.split(",")), args.images, {"range": args.range})
    print(to_json(found) if args.json else table(found))


if __name__ == "__main__":
    main()
