"""Train a small supernet on CIFAR-10: the one that ships with the package, and the one on MobileNet's widths that it is compared with.

    python -m benchmarks.train_supernet small-moofa --data FOLDER [--epochs 14] [--fresh]
    torchrun --nproc-per-node 4 -m benchmarks.train_supernet small-moofa --data FOLDER      # the same on several processes

FOLDER holds `cifar10_jpeg_train.npz` and `cifar10_jpeg_test.npz`. The last 5,000 of the training pictures are held back: accuracies that
choose anything are theirs; the test pictures only tell the accuracy at the end. One thread, three to five minutes an epoch on one x86-64 core; a
checkpoint every minute in `.cache/supernet`, from which a second run goes on. Ctrl-C writes one more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.train_small import images
from sdk.prepare.moofa.ladders import LADDERS
from sdk.prepare.moofa.space import Ladder, Subnet, largest, sample, smallest

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "supernet"
#: where the supernet of a ladder is kept: in the package, or beside the benchmarks
SHIPPED = Path(__file__).resolve().parent.parent / "sdk" / "prepare" / "moofa" / "shipped"
WEIGHTS = Path(__file__).resolve().parent / "weights"
PLACES = {"small-moofa": SHIPPED / "cifar10", "small-ofa": WEIGHTS / "supernet_small_ofa"}
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HELD_BACK = 5000
#: random subnets whose accuracy is told beside those of the smallest and the largest
TOLD = 8


def split(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training pictures, their labels, held-back pictures, their labels; the same split each time."""
    x, y = images(folder / "cifar10_jpeg_train.npz")
    rows = np.random.default_rng(0).permutation(len(x))
    kept, back = rows[:-HELD_BACK], rows[-HELD_BACK:]
    return x[kept], y[kept], x[back], y[back]


def accuracy(net: Any, subnet: Subnet, statistics: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers of a subnet with statistics of its own. statistics, x: uint8 [n, 32, 32, 3]."""
    import torch

    from sdk.prepare.moofa.nn.data import batches
    from sdk.prepare.moofa.nn.norm import PICTURES, reestimate

    plain = reestimate(net.extract(subnet), batches(statistics, subnet.resolution, count=PICTURES))
    with torch.no_grad():
        answers = np.concatenate([plain(batch).argmax(1).numpy() for batch in batches(x, subnet.resolution)])
    return float((answers == y).mean())


def told(ladder: Ladder, seed: int = 1) -> dict[str, Subnet]:
    """The subnets whose accuracy stands in the log."""
    random = Random(seed)
    return {"largest": largest(ladder), "smallest": smallest(ladder), **{f"random {i + 1}": sample(ladder, random) for i in range(TOLD)}}


def main() -> None:
    """Train, save, judge what was saved."""
    import torch

    from sdk.prepare.moofa.nn import store
    from sdk.prepare.moofa.nn.elastic import Supernet
    from sdk.prepare.moofa.nn.recipe import sandwich
    from sdk.prepare.moofa.nn.train import train

    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_supernet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ladder", choices=sorted(PLACES))
    parser.add_argument("--data", type=Path, required=True, help="folder with the two CIFAR-10 packs")
    parser.add_argument("--epochs", type=float, default=14.0, help="in which the largest, the smallest and a random subnet learn (default %(default)g)")
    parser.add_argument("--alone", type=float, default=0.0, help="epochs before them in which only the largest learns (default %(default)g)")
    parser.add_argument("--rate", type=float, default=0.1, help="the learning rate's peak (default %(default)g)")
    parser.add_argument("--from-saved", action="store_true", help="begin with the weights that are kept, not with random ones")
    parser.add_argument("--fresh", action="store_true", help="forget the checkpoint and the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ladder, place, checkpoint = LADDERS[args.ladder], PLACES[args.ladder], CACHE / f"{args.ladder}.ckpt"
    if args.fresh:
        for left in (checkpoint, CACHE / f"{args.ladder}.log"):
            left.unlink(missing_ok=True)
    recipe = sandwich(ladder, args.epochs, args.rate, alone=args.alone, seed=args.seed, decay=1e-4, smoothing=0.05)
    x, y, held_x, held_y = split(args.data)
    net = store.load(place)[0] if args.from_saved else Supernet(ladder, len(CLASS_NAMES), args.seed)
    before = store.load(place)[1].get("trained", []) if args.from_saved else []
    net = net.to(args.device, memory_format=torch.channels_last)
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    lines, last = _Log(CACHE / f"{args.ladder}.log"), [0.0]

    def report(progress: Any) -> None:
        if time.monotonic() - last[0] > 20 or progress.step == progress.steps:
            last[0] = time.monotonic()
            lines.write(str(progress))

    if not train(net, x, y, recipe, checkpoint, report, lambda: bool(asked)):
        print(f"stopped; the same command goes on from {checkpoint}")
        return
    if int(os.environ.get("RANK", "0")):
        return
    net = net.cpu()
    trained = [*before, {"recipe": "sandwich", "epochs": args.epochs, "alone": args.alone, "rate": args.rate, "seed": args.seed, "batch": recipe.batch,
                         "momentum": recipe.momentum, "decay": recipe.decay, "smoothing": recipe.smoothing, "shift": recipe.shift,
                         "processes": int(os.environ.get("WORLD_SIZE", "1"))}]  # fmt: skip
    facts: dict[str, Any] = {
        "task": "cifar10", "class_names": list(CLASS_NAMES), "data": "CIFAR-10, JPEG pack: 45,000 training pictures, 5,000 held back",
        "script": "benchmarks/train_supernet.py", "trained": trained,
    }  # fmt: skip
    store.save(net, place, facts)
    saved, _ = store.load(place)
    tx, ty = images(args.data / "cifar10_jpeg_test.npz")
    facts["accuracies"] = {
        name: {"subnet": asdict(subnet), "held_back": accuracy(saved, subnet, x, held_x, held_y), "test": accuracy(saved, subnet, x, tx, ty)}
        for name, subnet in told(ladder).items()
    }
    facts["log"] = lines.thinned()
    store.save(net, place, facts)
    print(json.dumps({name: [round(row["held_back"], 4), round(row["test"], 4)] for name, row in facts["accuracies"].items()}, indent=1))


class _Log:
    """Lines to stderr and to a file beside the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def thinned(self, count: int = 60) -> list[str]:
        """At most `count` lines, evenly over the run."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [lines[i] for i in sorted({round(i) for i in np.linspace(0, len(lines) - 1, count)})]


if __name__ == "__main__":
    main()
