"""Measure subnets of a trained supernet on held-back pictures: what its predictor is made of. The shipped supernet carries the list with it.

    python -m benchmarks.moofa_measure small-moofa --data FOLDER [--count 200]

Each subnet gets batch-norm statistics from 2,000 training pictures and is judged on the 5,000 held-back ones; about three seconds a subnet on one
x86-64 core. A second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.train_supernet import CACHE, PLACES, accuracy, split
from sdk.prepare.moofa.cost import Costs
from sdk.prepare.moofa.ladders import LADDERS, SMALL_DEVICE
from sdk.prepare.moofa.space import Ladder, Subnet, largest, sample, smallest, uniform

#: Draws among which the subnets are chosen evenly over their arena: uniform ones would nearly all be large.
DRAWS = 4000
BINS = 15


def balanced(ladder: Ladder, count: int, seed: int = 0) -> list[Subnet]:
    """The smallest, the largest, and random subnets spread evenly over the arena that they need; the same ones for the same seed."""
    random, costs = Random(seed), Costs(SMALL_DEVICE, ladder, 10, channels_last=True)
    corners = [smallest(ladder), largest(ladder), uniform(ladder, ladder.kernels[1], ladder.expansions[1], ladder.depths[1], ladder.resolutions[1])]
    known = {net.key(ladder): net for net in (*corners, *(sample(ladder, random) for _ in range(DRAWS)))}
    arenas = {key: costs(net).arena_bytes for key, net in known.items()}
    low, high = min(arenas.values()), max(arenas.values())
    bins: list[list[Any]] = [[] for _ in range(BINS)]
    for key, arena in arenas.items():
        bins[min(BINS - 1, int((arena - low) / (high - low + 1) * BINS))].append(key)
    chosen = list(corners)
    while len(chosen) < count and any(bins):
        for members in (members for members in bins if members):
            net = known[members.pop(0)]
            if net not in chosen:
                chosen.append(net)
    return chosen[:count]


def measured(ladder: str, data: Path, count: int, cache: Path) -> Iterator[dict[str, Any]]:
    """{"subnet", "accuracy"} of each; those in `cache`, a file of JSON lines, are not measured again."""
    from sdk.prepare.moofa.nn import store

    supernet, _ = store.load(PLACES[ladder])
    known = {json.dumps(row["subnet"]): row for row in map(json.loads, cache.read_text().splitlines())} if cache.exists() else {}
    x, _, held_x, held_y = split(data)
    for number, subnet in enumerate(balanced(LADDERS[ladder], count)):
        key = json.dumps(subnet.to_json())
        if key not in known:
            known[key] = {"subnet": subnet.to_json(), "accuracy": accuracy(supernet, subnet, x, held_x, held_y)}
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
        sys.stderr.write(f"{number + 1}/{count} {known[key]['accuracy']:.4f}\n")
        yield known[key]


def main() -> None:
    """Measure and write the list into the supernet's facts."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.moofa_measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ladder", choices=sorted(PLACES))
    parser.add_argument("--data", type=Path, required=True, help="folder with the CIFAR-10 packs")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = PLACES[args.ladder].with_suffix(".json")
    made = os.path.getmtime(PLACES[args.ladder].with_suffix(".npz"))
    cache = CACHE / f"{args.ladder}.{made:.0f}.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    rows = list(measured(args.ladder, args.data, args.count, cache))
    facts = json.loads(place.read_text(encoding="utf-8"))
    facts["measured"] = rows
    head = {key: value for key, value in facts.items() if key not in ("measured", "log")}
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    log = ",\n".join("  " + json.dumps(line) for line in facts.get("log", []))
    place.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "log": [\n{log}\n ],\n "measured": [\n{lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
