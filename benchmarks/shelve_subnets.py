"""The shelf of the shipped supernet: subnets that none beats in accuracy at their arena, work, flash or time, with statistics from real pictures.

    python -m benchmarks.shelve_subnets --data FOLDER [--count 32] [--workers 1]

They are chosen among the subnets that `python -m benchmarks.moofa` measured on held-back pictures. `embarq fit` takes one from here when it is given no
pictures: statistics from made-up ones would cost several points.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.moofa import compact
from benchmarks.train_small import images
from benchmarks.train_supernet import PLACES, split
from sdk.prepare.moofa.cost import Costs
from sdk.prepare.moofa.ladders import LADDERS, SMALL_DEVICE
from sdk.prepare.moofa.pareto import Point, front
from sdk.prepare.moofa.space import Subnet, from_json

LADDER = "small-moofa"
#: Training pictures that statistics come from.
PICTURES = 5000
OVER = ("arena_bytes", "macs", "flash_bytes", "latency_ms")


def chosen(points: Sequence[Point], count: int) -> list[Point]:
    """The points on any of the fronts; of too many, evenly over their arena."""
    known = {json.dumps(p.subnet.to_json()): p for name in OVER for p in front(points, name)}
    ordered = sorted(known.values(), key=lambda p: (p.cost.arena_bytes, p.accuracy))
    rows = sorted({round(i) for i in np.linspace(0, len(ordered) - 1, min(count, len(ordered)))})
    return [ordered[i] for i in rows]


def accuracy(module: Any, side: int, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers."""
    import torch

    from sdk.prepare.moofa.nn.data import batches

    with torch.no_grad():
        return float((np.concatenate([module(b).argmax(1).numpy() for b in batches(x, side)]) == y).mean())


def main() -> None:
    """Choose, estimate, judge, write."""
    import torch

    from sdk.prepare.moofa.nn import shelf, store
    from sdk.prepare.moofa.nn.data import batches
    from sdk.prepare.moofa.nn.measure import folded
    from sdk.prepare.moofa.nn.norm import reestimate

    parser = argparse.ArgumentParser(prog="python -m benchmarks.shelve_subnets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the CIFAR-10 packs")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1, help="subnets at once (default %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = PLACES[LADDER]
    supernet, facts = store.load(place)
    costs, ladder = Costs(SMALL_DEVICE, LADDERS[LADDER], supernet.classes, channels_last=True), LADDERS[LADDER]
    nets: list[tuple[Subnet, float]] = [(from_json(ladder, row["subnet"]), row["accuracy"]) for row in facts["measured"]]
    points = chosen([Point(net, found, costs(net)) for net, found in nets], args.count)
    x, _, held_x, held_y = split(args.data)
    tx, ty = images(args.data / "cifar10_jpeg_test.npz")

    def judged(point: Point) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        side = point.subnet.resolution
        found = shelf.statistics(reestimate(supernet.extract(point.subnet), batches(x, side, count=PICTURES)))
        module = folded(shelf.put(supernet.extract(point.subnet), found))
        row = {"subnet": point.subnet.to_json(), "accuracy": accuracy(module, side, held_x, held_y), "test": accuracy(module, side, tx, ty)}
        sys.stderr.write(f"{points.index(point) + 1}/{len(points)} {point.cost.arena_bytes:,} bytes {row['accuracy']:.4f} {row['test']:.4f}\n")
        return found, row

    with ThreadPoolExecutor(args.workers) as pool:
        kept, rows = zip(*pool.map(judged, points), strict=True)
    shelf.save(place.with_name(f"{place.name}_shelf.npz"), list(kept))
    facts["shelf"] = list(rows)
    place.with_suffix(".json").write_text(compact(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
