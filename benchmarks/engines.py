"""Measures what engines take for models of all sizes, in fresh processes, and fits the table that plans for Linux devices use.

    python -m benchmarks.engines measure [--models resnet18,...] [--threads 1,2]    # adds to benchmarks/results/engines.json
    python -m benchmarks.engines recount                                            # after a change of what is counted as a model's work
    python -m benchmarks.engines fit                                                # writes sdk/planner/engines.json, tells the errors

Each case is an engine's file in the runner that devices have (`embarq-run.pyz`), benched in a process of its own: peak resident
memory, and the fastest and median of its inferences. Measuring needs every engine's package; fitting needs only numpy.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import engine_fit, engine_nets
from benchmarks.rows import RESULTS, ROOT
from sdk.errors import EmbarqError
from sdk.runner import rates
from sdk.runner.errors import RunnerError

ENGINES = ("onnx", "litert", "executorch")
OBSERVATIONS = RESULTS / "engines.json"
TABLE = ROOT.parent / "sdk" / "planner" / "engines.json"
#: Multiply-accumulates in all inferences of a case: about a second on a desktop's core.
ABOUT_MACS = 20e9


def observe(
    name: str, threads: Sequence[int], engines: Sequence[str] = ENGINES, precisions: Sequence[str] | None = None, macs: float = ABOUT_MACS
) -> Iterator[dict[str, Any]]:
    """A record for each engine, precision (all by default) and number of threads that takes the subject `name`.

    macs: in all inferences of a case; memory alone needs few.
    """
    subject = engine_nets.subject(name)
    model = subject.load()
    for precision in (p for p in subject.precisions if precisions is None or p in precisions):
        for engine in engines:
            try:
                yield from _case(model, subject, engine, precision, threads, macs)
            except (EmbarqError, RunnerError) as error:
                sys.stderr.write(f"{name} {engine} {precision}: {error}\n")


def _case(model: Any, subject: engine_nets.Subject, engine: str, precision: str, threads: Sequence[int], macs: float) -> Iterator[dict[str, Any]]:
    import sdk
    from sdk.planner.engine_work import work_of

    wish: dict[str, Any] = {} if subject.calibration is None or precision == "float32" else {"calibration": subject.calibration}
    if subject.calibration is not None:  # tokens are only valid within the vocabulary, which random inputs are not
        wish["vectors"] = [subject.calibration[:1]]
    plan = sdk.plan("host", model, backend=engine, precision=precision, threads=list(threads), **wish)
    payload = import_module(f"sdk.backends.{engine}").emit(model, plan.candidates[0].recipe, plan.calibration or (), lambda _: None)
    work = work_of(plan.base.graph, sum(plan.base.arena_bytes), precision)
    for candidate in plan.candidates:
        found = _bench(plan, candidate.recipe, payload, max(10, min(300, round(macs / max(plan.base.macs, 1)))))
        yield {
            "model": subject.name, "engine": engine, "precision": precision, "threads": candidate.recipe.threads,
            "version": found["engine_version"], "file_bytes": sum(map(len, payload.files.values())),
            **{key: found[key] for key in ("before_engine_bytes", "after_load_bytes", "peak_rss_bytes", "library_bytes", "min_ms", "median_ms")},
            **counted(work),
        }  # fmt: skip


def counted(work: Any) -> dict[str, Any]:
    """A case's record of the model's work."""
    return {**asdict(work), "nodes": [list(asdict(node).values()) for node in work.nodes]}


def recount() -> None:
    """Count the work of every model anew, after a change of `sdk.planner.engine_work`; what was measured stays."""
    import sdk
    from sdk.planner.engine_work import work_of

    cases = read()
    for name in dict.fromkeys(case["model"] for case in cases):
        base = sdk.plan("host", engine_nets.subject(name).load(), threads=1).base
        for case in (case for case in cases if case["model"] == name):
            case.pop("weights_bytes", None)
            case.update(counted(work_of(base.graph, sum(base.arena_bytes), case["precision"])))
    write(cases)


def _bench(plan: Any, recipe: Any, payload: Any, repeats: int) -> dict[str, Any]:
    """`embarq-run bench` of the payload in a fresh process."""
    from sdk.device_rates import timed_artifact
    from sdk.runner.measure import fresh
    from sdk.zipapp import runner_zipapp

    with tempfile.TemporaryDirectory(prefix="embarq-engines-") as folder:
        timed_artifact(plan, recipe, payload).save(f"{folder}/artifact")
        runner = Path(folder) / "embarq-run.pyz"
        runner.write_bytes(runner_zipapp())
        return fresh([sys.executable, str(runner)], f"{folder}/artifact", recipe.engine, 3, repeats)


def read() -> list[dict[str, Any]]:
    """The records kept so far."""
    return list(json.loads(OBSERVATIONS.read_text())["cases"]) if OBSERVATIONS.exists() else []


def write(cases: Sequence[dict[str, Any]]) -> None:
    """Keep the records, a line each, with date and machine."""
    from targets.detect import this_computer

    core = this_computer()["cores"][0]
    head = {"date": datetime.date.today().isoformat(), "machine": f"{core['name']} ({platform.machine()})", "arch": core["arch"]}
    before = json.loads(OBSERVATIONS.read_text())["copy_bytes_s"] if OBSERVATIONS.exists() else {}
    head["copy_bytes_s"] = {threads: max(rate, before.get(threads, 0)) for threads, rate in copies().items()}  # what else ran must not count
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    RESULTS.mkdir(exist_ok=True)
    OBSERVATIONS.write_text(json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n ]\n}\n")


def measure(names: Sequence[str], threads: Sequence[int], engines: Sequence[str]) -> None:
    """Measure, keeping every case at once; a case measured again with the same version keeps its fastest inference."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        for case in observe(name, threads, engines):
            before = [kept["min_ms"] for kept in read() if (key(kept), kept["version"]) == (key(case), case["version"])]
            case["min_ms"] = min([case["min_ms"], *before])
            write([kept for kept in read() if key(kept) != key(case)] + [case])
            sys.stderr.write(f"{key(case)} {case['peak_rss_bytes'] / 2**20:.1f} MiB {case['min_ms']:.3f} ms\n")


@cache
def copies() -> dict[str, float]:
    """Threads -> bytes copied a second on this computer."""
    return {str(threads): rates.copy_rate(threads, 1.0) for threads in (1, 2)}


def key(case: dict[str, Any]) -> str:
    """`resnet18 onnx/int8/1t`."""
    return f"{case['model']} {case['engine']}/{case['precision']}/{case['threads']}t"


def fit() -> None:
    """Write the table and print how far it is off, and how far for a model that it has not seen."""
    kept = json.loads(OBSERVATIONS.read_text())
    table, lines = engine_fit.fit(kept["cases"], kept["copy_bytes_s"])
    head = {name: kept[name] for name in ("date", "machine", "arch")}
    TABLE.write_text(json.dumps({"source": "measured", **head, "command": "python -m benchmarks.engines", **table}, indent=1) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "recount", "fit"))
    parser.add_argument("--models", help=f"comma separated; all by default: {', '.join(engine_nets.names())}")
    parser.add_argument("--threads", default="1,2", help="comma separated: %(default)s")
    parser.add_argument("--engines", default=",".join(ENGINES), help="comma separated: %(default)s")
    args = parser.parse_args()
    if args.what != "measure":
        {"fit": fit, "recount": recount}[args.what]()
        return
    chosen = args.models.split(",") if args.models else list(engine_nets.names())
    unknown = [name for name in chosen if name not in engine_nets.names()]
    if unknown:
        parser.error(f"model {unknown[0]!r} is not known; choose from {', '.join(engine_nets.names())}")
    measure(chosen, [int(n) for n in args.threads.split(",")], args.engines.split(","))


if __name__ == "__main__":
    main()
