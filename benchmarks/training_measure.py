"""One case of the training benchmark: bytes kept, direction of the gradient, time of a step, peak of a process, error of the prediction.

Plain autograd stands beside ours with the same net, layers, batch and updates: batch-norm statistics frozen, the part before the
first layer that learns without a graph. Times are taken in turns, in one process, with one thread.
"""

from __future__ import annotations

import bisect
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import training_nets, training_peers
from benchmarks.rows import Row
from benchmarks.training_methods import COSINE, GRID, Learning, batched, learning, parsed, trainer
from benchmarks.training_peaks import peaks
from benchmarks.training_peers import PlainRun

BATCH, MICRO = 32, 8
TINY_RATE = 1e-5  # for steps that are timed, not learned from
TURNS = 7
CALIBRATION = 128  # pictures, of the kind the net was trained on: the host has no others


@dataclass(frozen=True)
class Setup:
    """A net, the layers of it that learn, and its pictures; what all methods on it share. batches: (x [32, ...], y [32]) tensors."""

    net_name: str
    layers: str
    net: Any
    plain: PlainRun
    batches: tuple[tuple[Any, Any], ...]
    learning: Learning
    plain_bytes: int
    plain_gradients: tuple[list[np.ndarray], ...]
    known: tuple[tuple[Any, Any], ...] = ()  # batches that ours was calibrated on
    shown: dict[str, str] = field(default_factory=dict)  # "fixed@0.7" -> "fixed"
    seen: dict[tuple[str, float], Learning] = field(default_factory=dict)

    def knowing(self, *methods: str) -> Learning:
        """What all methods share; and for hosvd and svd, at their eps, the ranks that calibration batches took, which they are held to."""
        from sdk.training.nn.calibrate import calibrate

        records = {record.name: record for record in self.learning.calibration.records}
        for name, eps in (parsed(method) for method in methods if parsed(method)[0] in ("hosvd", "svd")):
            if (name, eps) not in self.seen:
                found = calibrate(self.learning.program, self.known, (eps,), (name,), self.learning.names)
                self.seen[name, eps] = replace(self.learning, calibration=found)
            for record in self.seen[name, eps].calibration.records:
                records[record.name] = replace(records[record.name], batch_ranks={**records[record.name].batch_ranks, **record.batch_ranks})
        return replace(self.learning, calibration=replace(self.learning.calibration, records=tuple(records.values())))

    def case(self, method: str) -> str:
        """Name of a case: without the eps where that was chosen for it."""
        return f"{self.net_name}/{self.layers}/{self.shown.get(method, method)}"


def setup(net_name: str, layers: str, batches: int = 4) -> Setup:
    """The net, calibrated on unshifted pictures, with `batches` batches of shifted ones."""
    net = training_nets.build(net_name)
    data = [training_nets.pictures(net_name, BATCH, seed=i) for i in range(batches)]
    return setup_of(net, net_name, layers, data, batched(*training_nets.clean_pictures(net_name, CALIBRATION)))


def setup_of(net: Any, net_name: str, layers: str, data: Sequence[tuple[Any, Any]], known: Sequence[tuple[Any, Any]]) -> Setup:
    """What plain autograd keeps and computes on each batch of `data`; ours is calibrated on the batches `known`."""
    import torch

    names = training_peers.last(net, layers)
    plain = training_peers.plain(net, names)
    batches = tuple((torch.as_tensor(x), torch.as_tensor(y)) for x, y in data)
    with training_peers.held_bytes(list(plain.net.parameters())) as held:
        first = training_peers.gradients(plain, *batches[0])
    gradients = (first, *(training_peers.gradients(plain, x, y) for x, y in batches[1:]))
    return Setup(net_name, layers, net, plain, batches, learning(net, known, names), held[0], gradients, tuple(known))


def training_of(micro: int = 0, rate: float = TINY_RATE) -> Any:
    """What is asked of a trainer here: plain SGD, batches of 32."""
    import sdk

    return sdk.Training(batch=BATCH, micro_batch=micro, learning_rate=rate)


def kept_rows(s: Setup, method: str) -> list[Row]:
    """Bytes kept and the direction of the step, against plain autograd; and how well the bytes were predicted."""
    from sdk.planner.training.predict import predict_saved_bytes
    from sdk.planner.training.walk import walk_of

    known = s.knowing(method)
    one = trainer(known, method, training_of())
    one.step(*s.batches[0])
    saved = one.saved_bytes()
    cosines = [step_cosine(s, method, i) for i in range(len(s.batches))]
    predicted = predict_saved_bytes(walk_of(known.program), known.calibration.records, one.choices, BATCH)
    case = s.case(method)
    others = {"with constants": s.plain_bytes / (saved.batch + saved.constants)}
    if any(choice.factors == "int8" for choice in one.choices):
        whole = predict_saved_bytes(walk_of(known.program), known.calibration.records, one.choices, BATCH, "float32")
        others["held in float32"] = s.plain_bytes / whole
    return [
        Row(case, "saved_bytes_ratio", s.plain_bytes / saved.batch, "ratio", "higher", others),
        Row(case, "saved_bytes", saved.batch, "bytes", "lower", {"plain": s.plain_bytes}),
        Row(case, "constant_bytes", saved.constants, "bytes", "lower"),
        Row(case, "gradient_cosine", float(np.mean(cosines)), "cosine", "higher"),
        Row(case, "eps", 1.0 if method == "exact" else parsed(method)[1], "share", "lower"),
        Row(case, "prediction_error", abs(predicted - saved.batch) / saved.batch, "fraction", "lower"),
    ]


def at_its_eps(s: Setup, method: str) -> str:
    """The method with the smallest eps of the grid whose mean cosine is good enough; "exact", and a method whose eps was said, as they are."""
    if method == "exact" or "@" in method:
        return method
    # more energy is a better direction, so the first eps that is enough is found by halving
    at = bisect.bisect_left(GRID, True, key=lambda eps: bool(np.mean([step_cosine(s, f"{method}@{eps:g}", i) for i in range(len(s.batches))]) >= COSINE))
    named = f"{method}@{GRID[min(at, len(GRID) - 1)]:g}"
    s.shown[named] = method
    return named


def step_cosine(s: Setup, method: str, i: int) -> float:
    """Cosine between the weights' movement in one step of ours and plain autograd's gradient, on batch i. A fresh trainer every time:
    subspace iteration gets one batch before, as it has in any run but its first step."""
    one = trainer(s.knowing(method), method, training_of(rate=1e-6))
    if parsed(method)[0] == "asi":
        one.step(*s.batches[i - 1])
    before = _weights(one, s.plain.layers)
    one.updates.learning_rate = 1.0
    one.step(*s.batches[i])
    return training_peers.cosine([b - a for a, b in zip(_weights(one, s.plain.layers), before, strict=True)], s.plain_gradients[i])


def _weights(one: Any, names: Sequence[str]) -> list[np.ndarray]:
    state = one.state_dict()
    return [state[f"{name}.weight"].numpy().copy() for name in names]


def published_rows(s: Setup, eps: float) -> list[Row]:
    """The published HOSVD on the same net and batches: what its accounting claims, what autograd really keeps, its direction."""
    held, claimed, counted, cosine = published(s, eps)
    case = s.case("published" if eps == 0.9 else f"published@{eps:g}")
    return [
        Row(case, "saved_bytes_ratio", s.plain_bytes / held, "ratio", "higher", {"its own accounting": claimed}),
        Row(case, "saved_bytes", held, "bytes", "lower", {"plain": s.plain_bytes, "its own accounting": counted}),
        Row(case, "gradient_cosine", cosine, "cosine", "higher"),
    ]


def published(s: Setup, eps: float) -> tuple[int, float, int, float]:
    """(bytes autograd keeps, ratio its accounting claims, bytes of that accounting, gradient cosine) of the published HOSVD."""
    run = training_peers.official_hosvd(s.net, s.plain.layers, eps)
    with training_peers.held_bytes(list(run.net.parameters())) as held:
        first = training_peers.gradients(run, *s.batches[0])
    claimed, counted = run.counted.input_bytes / run.counted.factor_bytes, run.counted.factor_bytes  # of the first batch
    found = [first, *(training_peers.gradients(run, x, y) for x, y in s.batches[1:])]
    cosines = [training_peers.cosine(a, b) for a, b in zip(found, s.plain_gradients, strict=True)]
    return held[0], claimed, counted, float(np.mean(cosines))


def over_published_row(s: Setup, method: str, curve: Sequence[tuple[float, int]]) -> Row:
    """Bytes of the inputs that ours keeps, bases too, over those of the published HOSVD by its own accounting, at the same gradient cosine.

    curve: (cosine, bytes) of the published method at several eps, on the same batches; between them the logarithm of bytes is a line. Both
    count what is kept of layers' inputs alone: what activations and the loss keep comes on top in either.
    """
    from sdk.planner.training import kept

    choices = trainer(s.knowing(method), method, training_of()).choices
    records = {record.name: record for record in s.learning.calibration.records}
    inputs, whole = (sum(kept.input_bytes(records[c.layer], c, BATCH) for c in held) for held in (choices, kept.with_factors(choices, "float32")))
    constants, float_ones = (
        sum(kept.constant_bytes(records[c.layer], c) for c in held) for held in (choices, kept.with_factors(choices, "float32"))
    )
    cosines, sizes = zip(*sorted(curve), strict=True)
    reached = float(np.mean([step_cosine(s, method, i) for i in range(len(s.batches))]))
    theirs = float(np.exp(np.interp(reached, cosines, np.log(sizes))))
    others = {"without bases": inputs / theirs, "held in float32": (whole + float_ones) / theirs}
    return Row(s.case(method), "bytes_over_published", (inputs + constants) / theirs, "ratio", "lower", others)


def time_over_published_row(s: Setup, method: str, curve: Sequence[tuple[float, float]], turns: int = 3) -> Row:
    """Time of a step over that of the published HOSVD at the least eps that reaches our gradient's cosine, taken in turns.

    curve: (eps, cosine) of the published method, eps rising.
    """
    reached = float(np.mean([step_cosine(s, method, i) for i in range(len(s.batches))]))
    eps = next((eps for eps, cosine in curve if cosine >= reached), curve[-1][0])
    one, theirs, (x, y) = trainer(s.knowing(method), method, training_of()), training_peers.official_hosvd(s.net, s.plain.layers, eps), s.batches[0]
    ours, published_s = in_turns([lambda: one.step(x, y), lambda: training_peers.step(theirs, x, y, TINY_RATE)], turns)
    return Row(s.case(method), "time_over_published", ours / published_s, "ratio", "lower")


def time_row(s: Setup, method: str, turns: int = TURNS) -> Row:
    """Time of a step over that of plain autograd: the lowest of each, taken in turns."""
    one = trainer(s.knowing(method), method, training_of())
    x, y = s.batches[0]
    ours, plain = in_turns([lambda: one.step(x, y), lambda: training_peers.step(s.plain, x, y, TINY_RATE)], turns)
    return Row(s.case(method), "step_time_ratio", ours / plain, "ratio", "lower")


def in_turns(runs: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """The lowest seconds of each, one after the other `turns` times, after one that does not count."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(turns + 1):
        for run, found in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            found.append(time.perf_counter() - started)
    return [min(found[1:]) for found in times]


def peak_rows(s: Setup, methods: Sequence[str]) -> list[Row]:
    """Growth of our process over that of plain autograd with the whole batch at once; beside it plain autograd with the same micro-batches."""
    wanted = [("plain", 0), ("plain", MICRO), *((m, micro) for m in methods for micro in (MICRO, 0))]
    with tempfile.TemporaryDirectory(prefix="embarq-bench-") as folder:
        s.knowing(*methods).calibration.save(stored := str(Path(folder) / "calibration.npz"))
        found = peaks(s.net_name, s.layers, stored, wanted)
    plain = found["plain:0"]
    same = {"plain, same micro-batches": found[f"plain:{MICRO}"] / plain}
    rows = []
    for m in methods:
        rows.append(Row(s.case(m), "peak_rss_ratio", found[f"{m}:{MICRO}"] / plain, "ratio", "lower", same))
        rows.append(Row(s.case(m), "peak_rss_ratio_whole_batch", found[f"{m}:0"] / plain, "ratio", "lower"))
        rows.append(Row(s.case(m), "peak_rss_bytes", found[f"{m}:{MICRO}"], "bytes", "lower", {"plain": plain}))
    return rows
