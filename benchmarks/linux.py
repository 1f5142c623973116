"""Our Linux artifacts against the engines used plainly and against torch: latency, memory, accuracy, in one run.

    python -m benchmarks.linux [--json] [--plot] [--publish] [--models resnet18,...] [--precisions float32,int8] [--threads 1,2]

Every contender lives in a process of its own and they run in turns, round after round, so that what disturbs the machine
disturbs all alike. A contender's latency is the lowest of its rounds' medians. int8 peers are the engines' own int8 files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROOT, Row, publish, published_rows, table, to_json

DATA = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data") / "cifar10"
MODELS = ("mobilenetv2", "resnet18", "mcunet_like", "vit_tiny", "text_transformer", "mobilenetv2_035")
#: Trained nets, whose accuracy means something; the others have random weights.
TRAINED = ("mcunet_like", "mobilenetv2_035")
ENGINES = ("onnx", "litert", "executorch")
ROUNDS, ROUND_MS, CLOSE = 9, 300.0, 1.1
CALIBRATION, EVALUATION = 128, 1000


@dataclass
class Contender:
    """A process that runs inferences when told, and what its rounds gave."""

    name: str
    bench: Any  # (warmup, repeats) -> (ms of each, peak bytes)
    rounds: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def run(self) -> None:
        """One round of about `ROUND_MS`."""
        repeats = 3 if not self.rounds else max(3, min(400, round(ROUND_MS / self.rounds[-1])))
        times, self.peak_rss_bytes = self.bench(2, repeats)
        self.rounds.append(float(np.median(times)))

    @property
    def latency_ms(self) -> float:
        """Lowest median of all rounds but the first, which only tells how many runs fill one."""
        return min(self.rounds[1:])


def peer(kind: str, what: str, threads: int, stack: ExitStack) -> Contender:
    """A contender of `linux_peers` in its own process, ended with `stack`."""
    command = [sys.executable, "-m", "benchmarks.linux_peers", kind, what, str(threads)]
    process = subprocess.Popen(command, cwd=ROOT.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    stack.callback(process.kill)

    def bench(warmup: int, repeats: int) -> tuple[list[float], int]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"warmup": warmup, "repeats": repeats}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command[3:])} ended with {process.wait()}")
        answer = json.loads(line)
        return answer["ms"], answer["peak_rss_bytes"]

    return Contender(kind, bench)


def data_of(name: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """(calibration inputs [n, ...], (evaluation inputs, labels) for trained nets)."""
    from benchmarks import linux_nets
    from benchmarks.train_small import images

    if name not in TRAINED:
        return np.concatenate(linux_nets.NETS[name].samples(16)), None
    x, _ = images(DATA / "cifar10_jpeg_train.npz", CALIBRATION)
    tx, ty = images(DATA / "cifar10_jpeg_test.npz", EVALUATION)
    return picture(x), (picture(tx), ty)


def picture(x: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 3] -> float32 [n, 3, 32, 32] in [0, 1]."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32) / 255


def export_once() -> None:
    """Let every backend keep what it exported: peers and ours at each number of threads run the same file, and exporting takes minutes."""
    for engine in ENGINES:
        backend: Any = import_module(f"sdk.backends.{engine}")
        backend.emit = _remembered(backend.emit)


def _remembered(emit: Any) -> Any:
    kept: dict[tuple[int, str], Any] = {}

    def once(model: Any, recipe: Any, samples: Any = (), progress: Any = None) -> Any:
        key = (id(model), recipe.precision)
        if key not in kept:
            kept[key] = (model, emit(model, recipe, samples, progress))  # the model too: another must not get its id
        return kept[key][1]

    return once


def payload_files(model: Any, precision: str, calibration: np.ndarray, folder: Path) -> dict[str, Path]:
    """Engine -> its file, for the engines that take the model at this precision."""
    from sdk.data import read
    from sdk.errors import EmbarqError
    from sdk.planner.recipes import Recipe

    samples = read(calibration, model.graph, 256)
    files: dict[str, Path] = {}
    for engine in ENGINES:
        backend, recipe = import_module(f"sdk.backends.{engine}"), Recipe(engine, precision)
        try:
            if backend.refusal(model, recipe) is not None:
                continue
            payload = backend.emit(model, recipe, () if precision == "float32" else samples, lambda _: None)
        except EmbarqError as error:
            sys.stderr.write(f"{model.name}/{precision}: {engine} is no peer: {error}\n")
            continue
        for name, content in payload.files.items():
            (folder / engine).mkdir(exist_ok=True)
            (folder / engine / name).write_bytes(content)
        files[engine] = folder / engine / payload.entry
    return files


def measure(name: str, precision: str, threads: Sequence[int]) -> Iterator[list[Row]]:
    """The rows of each number of threads."""
    import torch

    import sdk
    from benchmarks.linux_peers import module_and_example

    torch.set_num_threads(1)
    net, example = module_and_example(name)
    model = sdk.load(net, example=torch.from_numpy(example), name=name)
    calibration, evaluation = data_of(name)
    with tempfile.TemporaryDirectory(prefix="embarq-bench-") as folder:
        files = payload_files(model, precision, calibration, Path(folder))
        for count in threads:
            yield case(model, precision, count, files, calibration, evaluation)


def case(model: Any, precision: str, threads: int, files: Mapping[str, Path], calibration: np.ndarray, evaluation: Any) -> list[Row]:
    """Compile ours, run everyone in turns, and write the rows."""
    import sdk

    wish: dict[str, Any] = {"precision": precision, "threads": threads, "accuracy_drop_points": 1.0 if evaluation is not None else 100.0}
    if precision != "float32":
        wish["calibration"] = calibration
    plan = sdk.plan("host", model, evaluation=evaluation, **wish)
    artifact = sdk.compile(plan)
    chosen = next(row for row in json.loads(artifact.files["plan.json"])["measured"] if row["verdict"] == "chosen")
    with ExitStack() as stack, artifact.flash("local") as session:

        def ours(warmup: int, repeats: int) -> tuple[list[float], int]:
            found = session.bench(repeats=repeats, warmup=warmup)
            return list(found.ms), int(found.peak_rss_bytes or 0)

        contenders = [Contender("embarq", ours)]
        contenders += [peer(kind, model.name, threads, stack) for kind in (("eager", "compile") if precision == "float32" else ())]
        contenders += [peer(engine, str(path), threads, stack) for engine, path in files.items()]
        race(contenders)
        peak = session.bench(repeats=5, fresh=True).peak_rss_bytes
    predicted = next(c.memory for c in plan.candidates if c.recipe.name == chosen["recipe"])
    return rows_of(f"{model.name}/{precision}/{threads}t", contenders, chosen, peak, predicted)


def race(contenders: list[Contender]) -> None:
    """All rounds, and as many again for those close to the fastest; a contender that fails is told and left out, except ours."""
    for _ in range(ROUNDS + 1):
        turn(contenders, contenders)
    fastest = min(one.latency_ms for one in contenders)
    close = [one for one in contenders if one.latency_ms <= CLOSE * fastest]
    for _ in range(ROUNDS if len(close) > 1 else 0):
        turn(close, contenders)


def turn(running: Sequence[Contender], contenders: list[Contender]) -> None:
    """One round of each of `running`; who fails leaves `contenders`."""
    for one in [one for one in running if one in contenders]:
        try:
            one.run()
        except RuntimeError as error:
            if one.name == "embarq":
                raise
            sys.stderr.write(f"{error}\n")
            contenders.remove(one)


def rows_of(name: str, contenders: Sequence[Contender], chosen: Mapping[str, Any], peak: int | None, predicted: Any) -> list[Row]:
    """The figures of one case."""
    ours, *others = contenders
    peers = {one.name: one.latency_ms for one in others}
    rows = [
        Row(name, "ratio_to_best_peer", ours.latency_ms / min(peers.values()), "ratio", "lower", {k: v / min(peers.values()) for k, v in peers.items()}),
        Row(name, "latency_ms", ours.latency_ms, "ms", "lower", peers),
        Row(name, "file_bytes", chosen["file_bytes"], "bytes", "lower"),
    ]
    if peak is not None:
        rows.append(Row(name, "peak_rss_bytes", peak, "bytes", "lower", {one.name: one.peak_rss_bytes for one in others}))
    if predicted is not None:
        rows.append(Row(name, "predicted_peak_bytes", predicted.total_bytes, "bytes", "lower"))
    if chosen["drop_points"] is not None and name.split("/")[0] in TRAINED:
        rows.append(Row(name, "accuracy_drop_points", chosen["drop_points"], "points", "lower"))
    sys.stderr.write(f"{name}: {chosen['recipe']}, {ours.latency_ms:.3f} ms, x{rows[0].value:.3f} of the best of {', '.join(peers)}\n")
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linux", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--plot", action="store_true", help="redraw docs/linux.svg")
    parser.add_argument("--publish", action="store_true", help="keep these cases in benchmarks/results/linux.json")
    parser.add_argument("--models", default=",".join(MODELS), help="comma separated: %(default)s")
    parser.add_argument("--precisions", default="float32,int8", help="comma separated, also dynamic-int8: %(default)s")
    parser.add_argument("--threads", default="1,2", help="comma separated: %(default)s")
    args = parser.parse_args()
    names, counts = args.models.split(","), [int(n) for n in args.threads.split(",")]
    unknown = [n for n in names if n not in MODELS]
    if unknown:
        parser.error(f"model {unknown[0]!r} is not known; choose from {', '.join(MODELS)}")
    if not DATA.is_dir():
        sys.stderr.write(f"left out, for their pictures are not in {DATA} (set EMBARQ_SHARED): {', '.join(n for n in names if n in TRAINED)}\n")
        names = [n for n in names if n not in TRAINED]
    export_once()
    rows: list[Row] = []
    for name, precision in ((name, precision) for name in names for precision in args.precisions.split(",")):
        for part in measure(name, precision, counts):
            rows += part
            if args.publish:  # after each case: a run of an hour that is stopped keeps what it has
                publish("linux", rows)
    if args.plot:
        from benchmarks.plots import linux_chart

        linux_chart(published_rows("linux") if args.publish else rows, ROOT.parent / "docs" / "linux.svg")
    print(to_json(rows) if args.json else table(rows))


if __name__ == "__main__":
    main()
