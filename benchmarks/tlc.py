"""Fewer layers on CIFAR-10: what is left of the accuracy, and what is saved on an emulated board and on this computer.

    python -m benchmarks.tlc [--json] [--plot] [--publish] [--quick] [--cases mobilenetv2_035/budget,...]

The dense nets are those of `benchmarks/small_nets.py` with their shipped weights. Layers are chosen and trained on a part of the training
pictures, which also holds those that judge on the way; test pictures only tell the accuracy at the end. Instructions are executed ones on the
emulated board, int8; latencies are of float32 on this computer with one thread, dense and collapsed net in turns, the fastest of each.
A case `<net>/8 or random` sets the ranking against a random choice of as many activations, the mean of three draws, all else equal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small_nets
from benchmarks.rows import ROOT, Row, publish, published_rows, table, to_json
from benchmarks.train_small import accuracy, augment, images

BOARD = "stm32f746"
DATA = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data") / "cifar10"
PICTURES, HELD_OUT, QUICK = 50_000, 1_000, 900  # training pictures used, those of them that judge, pictures of each kind with --quick
DRAWS = (0, 1, 2)
UNITS = {
    "accuracy": "fraction", "accuracy_drop_points": "points", "activations_removed": "activations", "layers_ratio": "ratio", "latency_ratio": "ratio",
    "peak_ram_ratio": "ratio", "instructions_ratio": "ratio", "arena_bytes": "bytes", "macs": "macs", "merge_error": "fraction",
}  # fmt: skip
HIGHER = ("accuracy", "activations_removed")


@dataclass(frozen=True)
class Case:
    """A net, how far it is to collapse, and how."""

    net: str
    budget: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    pictures: int = 49_000  # that are trained on
    augmented: bool = False  # as the dense nets were trained
    random: bool = False


TRAINING = {"epochs": 1, "batch": 128, "rate": 0.03, "score_samples": 128, "refit_samples": 256, "step": 0.5, "per_round": 35}
LONGER = {**TRAINING, "epochs": 6, "rate": 0.05, "score_samples": 256, "cost": "counted"}
CASES = {
    "resnet18_quarter/budget": Case("resnet18_quarter", {"removed": 5, "latency_ratio": 0.8}, {**LONGER, "epochs": 3}, augmented=True),
    "mobilenetv2_035/10": Case("mobilenetv2_035", {"removed": 10}, TRAINING, 5_120),
    "mobilenetv2_035/budget": Case("mobilenetv2_035", {"removed": 10, "latency_ratio": 0.765, "peak_ram_ratio": 0.9}, LONGER, augmented=True),
    "resnet18_quarter/8 or random": Case("resnet18_quarter", {"removed": 8}, {**TRAINING, "epochs": 0, "per_round": 8}, 2_560, random=True),
}


@dataclass(frozen=True)
class Pictures:
    """uint8 [n, 32, 32, 3] and labels int64 [n]: to train and judge on the way, and for the end."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def data(self, held_out: int, count: int | None = None) -> tuple[Any, ...]:
        """(inputs uint8 [N, 3, 32, 32], labels, held-out inputs, held-out labels), classes mixed; at most `count` to train on."""
        order = np.random.default_rng(0).permutation(len(self.x))
        x, y = np.ascontiguousarray(self.x[order].transpose(0, 3, 1, 2)), self.y[order]
        rows = slice(held_out, None if count is None else held_out + count)
        return x[rows], y[rows], x[:held_out], y[:held_out]


def pictures(data: Path, quick: bool) -> Pictures:
    """From the two packs in `data`."""
    train, test = (images(data / f"cifar10_jpeg_{part}.npz", QUICK if quick else count) for part, count in (("train", PICTURES), ("test", None)))
    return Pictures(*train, *test)


def measure(name: str, given: Pictures, tell: Callable[[str], None], cache: Path | None = None) -> list[Row]:
    """Every metric of one case; `cache`: where its checkpoint lies, so that a run that was killed goes on."""
    import sdk.tlc

    case = CASES[name]
    net = small_nets.pretrained(case.net)
    held_out = min(HELD_OUT, len(given.x) // 3)
    found = sdk.tlc.collapse(
        net, given.data(held_out, case.pictures), budget=case.budget, device=BOARD, name=case.net, progress=tell, measure=not case.random,
        augment=augment if case.augmented else None, checkpoint=cache, **case.options,
    )  # fmt: skip
    dense = accuracy(net, given.test_x, given.test_y)
    kept = accuracy(found.model, given.test_x, given.test_y)
    peers = {"dense": dense}
    if case.random:
        peers["random"] = float(np.mean([_random(case, net, given, held_out, draw, tell) for draw in DRAWS]))
    values = _figures(found, net, case.random)
    label = f"{case.net}/{len(found.removed)}"
    rows = [Row(label if not case.random else name, "accuracy", kept, UNITS["accuracy"], "higher", peers)]
    values = {"accuracy_drop_points": round(100 * (dense - kept), 4), "activations_removed": float(len(found.removed)), **values}
    return rows + [Row(rows[0].case, metric, value, UNITS[metric], "higher" if metric in HIGHER else "lower") for metric, value in values.items()]


def _random(case: Case, net: Any, given: Pictures, held_out: int, draw: int, tell: Callable[[str], None]) -> float:
    """Test accuracy with as many activations removed as chance has it."""
    import sdk.tlc

    options = {**case.options, "choice": "random", "seed": draw}
    found = sdk.tlc.collapse(net, given.data(held_out, case.pictures), budget=case.budget, device=BOARD, progress=tell, measure=False, **options)
    return accuracy(found.model, given.test_x, given.test_y)


def _figures(found: Any, net: Any, quick: bool) -> dict[str, float]:
    before, after = found.report.before, found.report.after
    values = {
        "layers_ratio": after.layers / before.layers,
        "peak_ram_ratio": after.arena_bytes / before.arena_bytes,
        "arena_bytes": float(after.arena_bytes),
        "macs": float(after.macs),
        "merge_error": found.report.merge_error,
    }
    if before.measured_instructions and after.measured_instructions:
        values["instructions_ratio"] = after.measured_instructions / before.measured_instructions
    if not quick:
        values["latency_ratio"] = latency_ratio(found.model, net)
    return values


def latency_ratio(small: Any, net: Any, rounds: int = 15) -> float:
    """Of the fastest inference of each, one picture on one thread, run in turns so that what disturbs one disturbs both.

    The dense net has its batch norms folded too, as every engine has them."""
    import torch

    from sdk.prepare.tlc.nn.costs import folded, timed_s
    from sdk.prepare.tlc.nn.trace import canonical

    x = torch.zeros(small_nets.INPUT_SHAPE)
    dense = folded(canonical(net, x))
    times = [(timed_s(small, x, 3), timed_s(dense, x, 3)) for _ in range(rounds)]
    return min(t for t, _ in times) / min(t for _, t in times)


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.tlc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--plot", action="store_true", help="redraw docs/tlc.svg from the published rows")
    parser.add_argument("--publish", action="store_true", help="keep each case in benchmarks/results/tlc.json as it is done")
    parser.add_argument("--quick", action="store_true", help="few pictures: minutes, and figures that mean little")
    parser.add_argument("--cases", default=",".join(CASES), help="comma separated: %(default)s")
    args = parser.parse_args()
    names = args.cases.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"case {unknown[0]!r} is not known; choose from {', '.join(CASES)}")
    if args.quick and args.publish:
        parser.error("figures of --quick mean little and are not published; leave one of both out")
    if not DATA.is_dir():
        parser.error(f"the pictures are not in {DATA}; set EMBARQ_SHARED to the folder that holds cifar10/")
    torch.set_num_threads(1)
    rows = run(names, args.quick, args.publish)
    if args.plot:
        from benchmarks.tlc_plot import chart

        chart(published_rows("tlc"), ROOT.parent / "docs" / "tlc.svg")
    print(to_json(rows) if args.json else table(rows))


def run(names: list[str], quick: bool, keep: bool) -> list[Row]:
    """Rows of all cases; each is published as it is done, for they take long."""
    given = pictures(DATA, quick)
    cache = ROOT.parent / ".cache" / "tlc"
    rows: list[Row] = []
    for name in names:
        found = measure(name, given, _tell, None if quick else cache / f"{name.replace('/', '-').replace(' ', '-')}.ckpt")
        if keep:
            publish("tlc", found)
        rows += found
    return rows


def _tell(line: str) -> None:
    if sys.stderr.isatty() or os.environ.get("EMBARQ_VERBOSE"):
        sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
