"""Subnets of the two small supernets at equal budgets of RAM: accuracy, memory planned and observed, work; how good predictor and search are.

    python -m benchmarks.moofa [--json] [--plot] [--publish] [--quick] [--only budgets,search,alone,boards] [--budgets 10KiB,16KiB,26KiB,64KiB]

Cases `<ladder>@<device>/<budget>`: the subnet that `sdk.moofa.search` finds, chosen on held-back pictures, judged in int8 on test pictures (`accuracy`; the
drop is from the float subnet's), compiled, and run on the emulated board. The equal-memory ladder's ratios are to MobileNet's at the same budget. Cases
`<ladder>/search`: predictor and evolution against random search. `<ladder>/smallest`: in the supernet, and trained alone by the same
recipe. `<ladder>@<device>/<n>`: random subnets on the emulated board. What is measured is kept in `.cache/moofa`: a second run goes on.
`--workers 2` measures in two processes and judges in two threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import moofa_boards
from benchmarks.mcu_accuracy import DATA
from benchmarks.rows import ROOT, Row, publish, published_rows, table, to_json
from benchmarks.train_small import images
from benchmarks.train_supernet import PLACES, accuracy, split
from sdk.prepare.moofa.ladders import LADDERS, SMALL_DEVICE
from sdk.prepare.moofa.space import from_json, smallest

CACHE = ROOT.parent / ".cache" / "moofa"
#: MobileNet's ladder first: the other is compared with it.
COMPARED = ("small-ofa", "small-moofa")
PARTS = ("budgets", "search", "alone", "boards")
BUDGETS = ("10KiB", "16KiB", "26KiB", "64KiB")
#: Training pictures that int8 ranges come from, test pictures that the int8 net is judged on (its meaning in numpy is slow), and pictures for statistics.
CALIBRATED, JUDGED, STATISTICS = 512, 5000, 2000
UNITS = {"arena_bytes": "bytes", "observed_arena_bytes": "bytes", "flash_bytes": "bytes", "macs": "MACs", "instructions": "instructions", "latency_ms": "ms"}
#: Ways to take 150 measurements out of all, over which the predictor is judged.
SPLITS = 16
HIGHER = ("accuracy", "accuracy_alone", "kendall_tau", "feasible_share")


def row(case: str, metric: str, value: float) -> Row:
    """A row with the metric's unit."""
    unit = UNITS.get(metric, "points" if metric.endswith("points") else "s" if metric.endswith("_s") else "fraction")
    return Row(case, metric, value, unit, "higher" if metric in HIGHER else "lower")


class Pictures:
    """CIFAR-10: training pictures, held-back ones, test ones."""

    def __init__(self, quick: bool) -> None:
        self.x, self.y, self.held_x, self.held_y = split(DATA)
        self.test_x, self.test_y = images(DATA / "cifar10_jpeg_test.npz", 500 if quick else None)
        self.judged = 200 if quick else JUDGED
        if quick:
            self.held_x, self.held_y = self.held_x[:500], self.held_y[:500]


def search(ladder: str, budget: str, pictures: Pictures, quick: bool, workers: int) -> Any:
    """What `sdk.moofa.search` finds for the budget; measurements are shared among budgets."""
    import sdk

    effort = sdk.moofa.Effort(measure=20, rounds=1, front=2, finalists=2) if quick else sdk.moofa.Effort()
    x, y = pictures.x[:STATISTICS], pictures.y[:STATISTICS]
    net = sdk.moofa.supernet(PLACES[ladder])
    said = [0.0]

    def report(progress: Any) -> None:
        if time.monotonic() - said[0] > 20:
            said[0] = time.monotonic()
            sys.stderr.write(f"{ladder} {budget}: {progress}\n")

    data = x, y, pictures.held_x, pictures.held_y
    return sdk.moofa.search(net, SMALL_DEVICE, budget, data, effort=effort, workers=workers, cache=CACHE, report=report)


def budget_rows(ladder: str, budget: str, pictures: Pictures, quick: bool, workers: int = 1) -> list[Row]:
    """The found subnet, quantised, compiled and run."""
    import torch

    import sdk
    from sdk.prepare.moofa.nn.data import batches

    found = search(ladder, budget, pictures, quick, workers)
    side = found.subnet.resolution
    with torch.no_grad():
        real = np.concatenate([found.module(b).argmax(1).numpy() for b in batches(pictures.test_x, side)])
    plan: Any = sdk.plan(SMALL_DEVICE, found.model(), calibration=channels_last(pictures.x[:CALIBRATED], side))
    answers = int8_answers(plan.graph, pictures.test_x[: pictures.judged], side, workers)
    artifact = sdk.compile(plan)
    with artifact.flash("emulator") as session:
        instructions = session.profile().instructions
    right, real_right = answers == pictures.test_y[: pictures.judged], real == pictures.test_y
    values = {
        "accuracy": float(right.mean()), "accuracy_float": float(real_right.mean()), "accuracy_held_back": found.accuracy,
        "accuracy_drop_points": 100 * float(real_right[: pictures.judged].mean() - right.mean()),
        "arena_bytes": sum(plan.arena_bytes), "observed_arena_bytes": sum(moofa_boards.observed_arena(artifact)), "flash_bytes": plan.flash.total,
        "macs": plan.cost.macs, "instructions": instructions, "latency_ms": 1e3 * plan.cost.latency_s,
    }  # fmt: skip
    keep(ladder, found)
    return [row(f"{ladder}@{SMALL_DEVICE}/{budget}", metric, value) for metric, value in values.items()]


def keep(ladder: str, found: Any) -> None:
    """All measured subnets beside the supernet: the shipped one's are what `embarq fit` predicts from."""
    path = PLACES[ladder].with_suffix(".json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    known = {json.dumps(r["subnet"]): r for r in facts.get("measured", [])}
    known |= {json.dumps(m.subnet.to_json()): {"subnet": m.subnet.to_json(), "accuracy": m.accuracy} for m in found.measured}
    facts["measured"] = list(known.values())
    path.write_text(compact(facts), encoding="utf-8")


def compact(facts: dict[str, Any]) -> str:
    """JSON with a line for each measurement and each line of the log."""
    lists = {name: facts[name] for name in ("log", "shelf", "measured") if name in facts}
    head = json.dumps({name: value for name, value in facts.items() if name not in lists}, indent=1)[:-2]
    bodies = [f' "{name}": [\n' + ",\n".join("  " + json.dumps(entry) for entry in entries) + "\n ]" for name, entries in lists.items()]
    return ",\n".join([head, *bodies]) + "\n}\n"


def channels_last(x: np.ndarray, side: int) -> np.ndarray:
    """uint8 [n, H, W, 3] -> float32 [n, side, side, 3] in [0, 1]."""
    from sdk.prepare.moofa.nn.data import batches

    return np.ascontiguousarray(np.concatenate([b.numpy() for b in batches(x, side)]).transpose(0, 2, 3, 1))


def int8_answers(graph: Any, x: np.ndarray, side: int, workers: int = 1) -> np.ndarray:
    """The classes [n] that the int8 graph tells of uint8 pictures [n, 32, 32, 3], found by that many threads."""
    if workers == 1:
        return _int8_answers(graph, x, side)
    parts = np.array_split(x, workers)
    with ThreadPoolExecutor(workers) as pool:  # what takes the time is numpy's, which lets other threads run
        return np.concatenate(list(pool.map(_int8_answers, [graph] * workers, parts, [side] * workers)))


def _int8_answers(graph: Any, x: np.ndarray, side: int) -> np.ndarray:
    from sdk.golden import quantise_array
    from sdk.graph.interpreter import run

    q = quantise_array(graph[graph.inputs[0]], channels_last(x, side))
    return np.concatenate([run(graph, {graph.inputs[0]: q[i : i + 50]})[graph.outputs[0]].reshape(-1, 10).argmax(1) for i in range(0, len(q), 50)])


def ratios(rows: Sequence[Row], before: Sequence[Row]) -> Iterator[Row]:
    """The equal-memory ladder's of this run over MobileNet's, of this run or an earlier one, at each budget that both have."""
    known = {(r.case, r.metric): r.value for r in (*before, *rows)}
    base, ours = COMPARED
    for case, metric in [(r.case, r.metric) for r in rows]:
        ladder, _, rest = case.partition("@")
        named = {"instructions": "instructions_ratio", "latency_ms": "latency_ratio", "arena_bytes": "peak_ram_ratio"}
        if ladder == ours and metric in named and (case, "accuracy") in known and (other := known.get((f"{base}@{rest}", metric))):
            yield row(case, named[metric], known[case, metric] / other)


def search_rows(ladder: str, quick: bool) -> list[Row]:
    """Predictor and evolution, from 150 of the accuracies that were measured; the predictor's figures are the mean over SPLITS choices of the 150."""
    from sdk.prepare.moofa import predictor
    from sdk.prepare.moofa.budget import Budget
    from sdk.prepare.moofa.cost import Costs
    from sdk.prepare.moofa.search import evolve, random_search

    space = LADDERS[ladder]
    facts = json.loads(PLACES[ladder].with_suffix(".json").read_text())
    nets, found = zip(*((from_json(space, r["subnet"]), r["accuracy"]) for r in facts["measured"]), strict=True)
    taus, errors = [], []
    for seed in reversed(range(SPLITS)):  # the last one's predictor is searched with
        order = np.random.default_rng(seed).permutation(len(nets))
        seen, rest = order[:150], order[150:]
        expects = predictor.fit(space, [nets[i] for i in seen], [found[i] for i in seen])
        told = expects.score([nets[i] for i in rest])
        taus.append(predictor.kendall_tau(told, [found[i] for i in rest]))
        errors.append(100 * predictor.rmse(told, [found[i] for i in rest]))
    values = {"kendall_tau": float(np.mean(taus)), "rmse_points": float(np.mean(errors))}
    costs, gaps, seconds, feasible = Costs(SMALL_DEVICE, space, 10, channels_last=True), [], [], []
    draws = 2000 if quick else 20000
    for budget in (Budget(arena_bytes=text) for text in BUDGETS[:3]):
        started = time.perf_counter()
        best = evolve(space, expects.score, costs, budget)
        seconds.append(time.perf_counter() - started)
        feasible.append(np.mean([budget.allows(costs(f.subnet)) for f in best]))
        random = random_search(space, expects.score, costs, budget, draws)
        gaps.append(0.0 if random is None else 100 * (random.score - best[0].score))
    values |= {"gap_to_random_points": max(gaps), "search_s": max(seconds), "feasible_share": float(np.mean(feasible))}
    return [row(f"{ladder}/search", metric, value) for metric, value in values.items()]


def alone_rows(ladder: str, pictures: Pictures, quick: bool) -> list[Row]:
    """The smallest subnet in the supernet and trained alone by the same recipe: same pictures, epochs, rate; and without statistics of its own."""
    import torch

    import sdk
    from sdk.prepare.moofa.nn.data import batches
    from sdk.prepare.moofa.nn.norm import reestimate
    from sdk.prepare.moofa.nn.plain import SubnetModule, initialise
    from sdk.prepare.moofa.nn.recipe import Phase, Recipe, narrowed
    from sdk.prepare.moofa.nn.train import train

    space, subnet = LADDERS[ladder], smallest(LADDERS[ladder])
    net, facts = sdk.moofa.supernet(PLACES[ladder]), json.loads(PLACES[ladder].with_suffix(".json").read_text())
    given = facts["trained"][-1]
    top = replace(narrowed(space), resolutions=(subnet.resolution,))
    epochs = 0.2 if quick else given["epochs"] + given["alone"]
    shared = {name: given[name] for name in ("batch", "momentum", "decay", "smoothing", "shift", "seed")}
    recipe = Recipe((Phase("alone", epochs, given["rate"], top, 0, "labels"),), **shared)
    alone = SubnetModule(space, subnet, 10).to(memory_format=torch.channels_last)
    initialise(alone, given["seed"])
    if not train(alone, pictures.x, pictures.y, recipe, CACHE / f"alone-{ladder}.ckpt", report=_every_20_s(ladder)):
        raise SystemExit("stopped")
    reestimate(alone, batches(pictures.x, subnet.resolution, count=STATISTICS))

    def judged(module: Any) -> float:
        with torch.no_grad():
            answers = np.concatenate([module(b).argmax(1).numpy() for b in batches(pictures.test_x, subnet.resolution)])
        return float((answers == pictures.test_y).mean())

    shared_accuracy, alone_accuracy = accuracy(net, subnet, pictures.x, pictures.test_x, pictures.test_y), judged(alone)
    values = {
        "accuracy": shared_accuracy, "accuracy_alone": alone_accuracy, "accuracy_drop_points": 100 * (alone_accuracy - shared_accuracy),
        "without_statistics_drop_points": 100 * (shared_accuracy - judged(net.extract(subnet))),
    }  # fmt: skip
    return [row(f"{ladder}/smallest", metric, value) for metric, value in values.items()]


def _every_20_s(name: str) -> Any:
    said = [0.0]

    def report(progress: Any) -> None:
        if time.monotonic() - said[0] > 20:
            said[0] = time.monotonic()
            sys.stderr.write(f"{name} alone: {progress}\n")

    return report


def everything(parts: Sequence[str], ladders: Sequence[str], budgets: Sequence[str], quick: bool, workers: int = 1) -> Iterator[list[Row]]:
    """Each case as it is done."""
    pictures = Pictures(quick)
    if "budgets" in parts:
        for ladder in ladders:
            for budget in budgets:
                yield budget_rows(ladder, budget, pictures, quick, workers)
    for ladder in ladders:
        if "search" in parts:
            yield search_rows(ladder, quick)
        if "alone" in parts:
            yield alone_rows(ladder, pictures, quick)
        if "boards" in parts:
            yield moofa_boards.board_rows(LADDERS[ladder], 2 if quick else 20, 0, SMALL_DEVICE)


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.moofa", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--plot", action="store_true", help="redraw docs/moofa.svg")
    parser.add_argument("--publish", action="store_true", help="keep these cases in benchmarks/results/moofa.json")
    parser.add_argument("--quick", action="store_true", help="few measurements and pictures")
    parser.add_argument("--only", default=",".join(PARTS), help="comma separated: %(default)s")
    parser.add_argument("--ladders", default=",".join(COMPARED), help="comma separated: %(default)s")
    parser.add_argument("--budgets", default=",".join(BUDGETS), help="comma separated: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="processes that measure subnets, and threads that judge the found one (default %(default)s)")
    args = parser.parse_args()
    for given, known in ((args.only, PARTS), (args.ladders, PLACES)):
        unknown = [name for name in given.split(",") if name not in known]
        if unknown:
            parser.error(f"{unknown[0]!r} is not known; choose from {', '.join(known)}")
    if not DATA.is_dir():
        parser.error(f"the pictures are not in {DATA}; set EMBARQ_SHARED to the folder that holds cifar10/")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for case in everything(args.only.split(","), args.ladders.split(","), args.budgets.split(","), args.quick, args.workers):
        rows += case
        sys.stderr.write("".join(f"{r.case} {r.metric} {r.value:.6g}\n" for r in case))
        if args.publish:
            publish("moofa", rows)
    if compared := list(ratios(rows, published_rows("moofa"))):
        rows += compared
        if args.publish:
            publish("moofa", rows)
    if args.plot:
        from benchmarks.moofa_plot import moofa_chart

        moofa_chart(published_rows("moofa") if args.publish else rows, ROOT.parent / "docs" / "moofa.svg")
    print(to_json(rows) if args.json else table(rows))


if __name__ == "__main__":
    main()
