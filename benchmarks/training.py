"""Training on the device: what a step keeps, where it goes, how long it takes, and what it does for somebody's own data.

    python -m benchmarks.training [--json] [--plot] [--publish] [--quick] [--tasks] [--nets mobilenetv2_035_32,...] [--only mcu]

Cases `<net>/<last12|all>/<method>`: ours against plain autograd on the same net, layers, pictures and batch of 32, one thread. Cases
`<net>/<layers>/published`: the published HOSVD on the same, as autograd stores it, its own accounting beside it. Cases
`mcu/<configuration>`: a training step on an emulated board. With --tasks, cases `task/<name>/<method>`: accuracy before and after
learning, three to five seeds, at an eps of 0.9. A net's method without an eps behind an @ is measured at the smallest eps of a grid at which its
gradient has a cosine of 0.87 to plain autograd's; the row `eps` tells it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence

from benchmarks import training_measure, training_nets, training_tasks
from benchmarks.rows import ROOT, Row, publish, published_rows, table, to_json
from benchmarks.training_methods import METHODS

LAYERS = ("last12", "all")
PARTS = ("nets", "mcu", "tasks")
#: the cases of the picture: bytes against cosine, on one net
CURVE_NET, CURVE = "mobilenetv2_035_32", tuple(f"{m}@{eps}" for m in ("fixed", "asi", "hosvd", "svd") for eps in (0.6, 0.8, 0.9, 0.95))
PUBLISHED, PUBLISHED_EPS = ("mobilenetv2_035_32", "mcunet_like_32"), (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


def net_rows(net: str, layers: str, methods: Sequence[str], quick: bool) -> Iterator[list[Row]]:
    """The cases of one net and one set of layers, one after the other."""
    s = training_measure.setup(net, layers, batches=1 if quick else 4)
    methods = [training_measure.at_its_eps(s, method) for method in methods]
    for method in methods:
        yield [*training_measure.kept_rows(s, method), training_measure.time_row(s, method, 3 if quick else training_measure.TURNS)]
    if not quick:
        yield training_measure.peak_rows(s, methods)
    if quick or net != CURVE_NET:
        return
    for method in (m for m in CURVE if m not in s.shown):  # those that were chosen have their rows already
        yield training_measure.kept_rows(s, method)


def published_cases(net: str, layers: str) -> Iterator[list[Row]]:
    """The published method on one net; slow, for it decomposes every input of every step."""
    s = training_measure.setup(net, layers, batches=2)
    for eps in (0.8, 0.9):
        yield training_measure.published_rows(s, eps)
    curve = [training_measure.published(s, eps) for eps in PUBLISHED_EPS]
    fixed = training_measure.at_its_eps(s, "fixed")
    over = training_measure.over_published_row(s, fixed, [(cosine, counted) for _, _, counted, cosine in curve])
    known = [(eps, cosine) for eps, (_, _, _, cosine) in zip(PUBLISHED_EPS, curve, strict=True)]
    yield [over, training_measure.time_over_published_row(s, fixed, known)]


def mcu_rows(quick: bool) -> Iterator[list[Row]]:
    """The microcontroller's cases, where that part of the benchmark is there."""
    try:
        module = importlib.import_module("benchmarks.training_mcu")
    except ModuleNotFoundError:
        sys.stderr.write("mcu: benchmarks/training_mcu.py is not there, so its cases are left out\n")
        return
    yield from module.cases(quick)


def everything(parts: Sequence[str], nets: Sequence[str], methods: Sequence[str], tasks: Sequence[str], quick: bool, jobs: int) -> Iterator[list[Row]]:
    """Every case that was asked for, as it is done. methods: () for all that a part of the benchmark has."""
    if "nets" in parts:
        for net in nets:
            for layers in LAYERS:
                yield from net_rows(net, layers, methods or METHODS, quick)
                if net in PUBLISHED and not quick:
                    yield from published_cases(net, layers)
    if "mcu" in parts:
        yield from mcu_rows(quick)
    if "tasks" in parts:
        for task in tasks:
            asked = training_tasks.TASKS[task]
            yield from training_tasks.rows(task, ("fixed",) if quick else methods or asked.methods, asked.seeds[: 1 if quick else None], jobs)


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--plot", action="store_true", help="redraw docs/training.svg")
    parser.add_argument("--publish", action="store_true", help="keep these cases in benchmarks/results/training.json")
    parser.add_argument("--quick", action="store_true", help="one batch, few turns, no peaks, one seed: a minute")
    parser.add_argument("--tasks", action="store_true", help="also what learning does for accuracy (20 minutes more)")
    parser.add_argument("--only", choices=PARTS, help="one part of the benchmark")
    parser.add_argument("--nets", default=",".join(training_nets.NETS), help="comma separated: %(default)s")
    parser.add_argument(
        "--methods",
        default="",
        help=f"comma separated, with @eps where it is not to be chosen: {','.join(METHODS)}; of tasks, beside exact and "
        f"full: {','.join(training_tasks.METHODS)}",
    )
    parser.add_argument("--task", default=",".join(training_tasks.TASKS), help="comma separated: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="processes that learn at once in tasks (default %(default)s)")
    args = parser.parse_args()
    for given, known in ((args.nets, training_nets.NETS), (args.task, training_tasks.TASKS)):
        unknown = [name for name in given.split(",") if name not in known]
        if unknown:
            parser.error(f"{unknown[0]!r} is not known; choose from {', '.join(known)}")
    parts = (args.only,) if args.only else PARTS[: 3 if args.tasks else 2]
    methods = tuple(args.methods.split(",")) if args.methods else ()
    for method in methods:
        for part, names in (("nets", METHODS), ("tasks", training_tasks.METHODS)):
            if part in parts and method.split("@")[0] not in names:
                parser.error(f"{method!r} is no method of {part}; choose from {', '.join(names)}")
    if not training_nets.DATA.is_dir():
        parser.error(f"the pictures are not in {training_nets.DATA}; set EMBARQ_SHARED to the folder that holds cifar10/ and har/")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for case in everything(parts, args.nets.split(","), methods, args.task.split(","), args.quick, args.jobs):
        rows += case
        sys.stderr.write("".join(f"{r.case} {r.metric} {r.value:.4g}\n" for r in case))
        if args.publish:  # after each case: a run that is stopped keeps what it has
            publish("training", rows)
    if args.plot:
        from benchmarks.training_plot import training_chart

        training_chart(published_rows("training") if args.publish else rows, ROOT.parent / "docs" / "training.svg")
    print(to_json(rows) if args.json else table(rows))


if __name__ == "__main__":
    main()
