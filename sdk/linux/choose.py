"""`compile` for Linux devices: build every candidate, prove it, measure all in turns in one run, keep the fastest that is accurate enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError
from sdk.errors import DeviceError, DoesNotFit, EmbarqError, LinkError, UnsupportedOp, VerificationFailed, VersionMismatch
from sdk.golden import Golden
from sdk.linux.evaluate import answers, share_right
from sdk.linux.source import Arrays, reference
from sdk.planner.linux_records import Evaluation, LinuxPlan, Measured
from sdk.planner.recipes import Recipe

Progress = Callable[[str], None]
#: Writes the artifact of one recipe: `sdk.artifact.linux_artifact`.
Make = Callable[[LinuxPlan, Recipe, Payload, Golden, float, Sequence[Measured], Sequence[LayerError]], Any]

#: Largest difference of a float payload from its source, relative to the output's largest value: other engines, other order of sums.
FLOAT_TOLERANCE = 1e-3
#: The same for half floats, and for integers on another machine's kernels, which round some values to the neighbouring step.
ROUNDED_TOLERANCE = 5e-2
#: Share of a device's memory that candidates may take together while they are measured; the rest is the system's.
SHARE = 0.7
#: Bits of a weight: what decides on a GPU that nobody can measure now.
BITS = {"int8": 8, "dynamic-int8": 8, "float16": 16, "float32": 32}
#: Rounds of measuring in turns; in each, every candidate left runs for about `ROUND_MS`. As many again for those within `CLOSE` of the fastest.
ROUNDS, ROUND_MS, CLOSE = 6, 250.0, 1.15
#: After two rounds, candidates this much slower than the fastest are dropped: noise does not reach so far.
RACE_FACTOR = 2.0


@dataclass
class _Racer:
    """A candidate on its way: what it was built to, a session that runs it, what it answered, its times by round."""

    recipe: Recipe
    payload: Payload
    golden: Golden
    tolerance: float
    start: Callable[[], Any] = field(default=lambda: None, repr=False)  # a session that runs it, unproved
    session: Any = None  # one that stays open through the race
    accuracy: float | None = None
    rounds: list[float] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    engine_version: str = ""
    out: str | None = None  # why it is no longer in the race
    absent: bool = False  # the device cannot start it: no package, an old one, or one that does not work there

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The session that stays open, or one for this block alone."""
        if self.session is not None:
            yield self.session
            return
        session = self.start()
        try:
            yield session
        finally:
            session.close()

    def bench(self, repeats: int, warmup: int) -> float:
        """Median ms of a bench; the runner's peak memory so far is noted on the way."""
        with self.running() as session:
            median = float(session.bench(repeats=repeats, warmup=warmup).median_ms)
            self.peak_rss_bytes = session.health().get("peak_rss_bytes")
        return median

    @property
    def median_ms(self) -> float:
        """The lowest of the rounds' medians, infinite before the first: what disturbs a machine only ever adds to a time."""
        return min(self.rounds, default=float("inf"))


def compile_linux(plan: LinuxPlan, make: Make, open_session: Callable[[Any, str], Any], progress: Progress | None = None) -> Any:
    """The artifact of the fastest recipe of `plan` that is accurate enough.

    make: writes the artifact of one recipe; open_session: starts an artifact on a target, unproved. Both stand on a floor above.
    Raises `DoesNotFit`, `UnsupportedOp` when no engine could build the model, `VerificationFailed` when none computes what the
    source does, or none is accurate enough.
    """
    if not plan.fits:
        over = "; ".join(str(s) for s in plan.shortfall)
        raise DoesNotFit(f"{plan.name} does not fit {plan.device.name}: {over}; try: {plan.mends[0] if plan.mends else 'a smaller model'}")
    tell = progress or (lambda _: None)
    run = reference(plan.model)
    wanted = tuple(run(v) for v in plan.vectors)
    racers, failed = _build(plan, [c.recipe for c in plan.kept], wanted, tell)
    try:
        source = _race(plan, racers, run, make, open_session, tell)
        if plan.spare and racers and all(racer.absent for racer in racers):
            tell("no engine is installed there: trying our own")
            more, more_failed = _build(plan, plan.spare, wanted, tell)
            racers, failed = [*racers, *more], [*failed, *more_failed]
            source = _race(plan, more, run, make, open_session, tell)
    finally:
        for racer in racers:
            if racer.session is not None:
                racer.session.close()
    best = _best(plan, racers, source)
    rows = [*(_row(plan, racer, racer is best, source) for racer in racers), *failed]
    return make(plan, best.recipe, best.payload, best.golden, best.tolerance, rows, _layers(plan, best, tell))


def _layers(plan: LinuxPlan, best: _Racer, tell: Progress) -> Sequence[LayerError]:
    """What quantising cost the recipe that was kept, layer by layer, when the plan asks for it and there is data to say it on."""
    if not plan.layer_report or best.recipe.precision == "float32" or plan.calibration is None:
        return ()
    tell(f"what {best.recipe.precision} costs each layer")
    backend = import_module(f"sdk.backends.{best.recipe.engine}")
    return backend.error_report(plan.model, best.recipe, best.payload, plan.calibration)  # type: ignore[no-any-return]


def _build(plan: LinuxPlan, recipes: Sequence[Recipe], wanted: Sequence[Arrays], tell: Progress) -> tuple[list[_Racer], list[Measured]]:
    """Every recipe with its payload, which serves all thread counts; and a row for each whose export failed, which is told, not fatal."""
    payloads: dict[tuple[str, str], Payload] = {}
    failures: dict[tuple[str, str], str] = {}
    racers, failed = [], []
    for recipe in recipes:
        key = (recipe.engine, recipe.precision)
        if key not in payloads and key not in failures:
            tell(f"building {recipe.engine} {recipe.precision}")
            try:
                payloads[key] = import_module(f"sdk.backends.{recipe.engine}").emit(plan.model, recipe, plan.calibration or (), tell)
            except EmbarqError as error:
                failures[key] = str(error)
        if key in failures:
            failed.append(Measured(recipe, None, None, None, None, 0, "", _where(plan), f"not built: {failures[key]}"))
        else:
            golden = Golden(tuple(plan.vectors), tuple(wanted), tuple(() for _ in plan.vectors))
            racers.append(_Racer(recipe, payloads[key], golden, _tolerance(plan, recipe, payloads[key])))
    if not racers and recipes is not plan.spare:
        told = "; ".join(f"{'/'.join(key)}: {reason}" for key, reason in failures.items())
        raise UnsupportedOp(f"no engine could build {plan.name}: {told}")
    return racers, failed


def _tolerance(plan: LinuxPlan, recipe: Recipe, payload: Payload) -> float:
    """How far another machine may be off the golden outputs: what the payload promises, else what engines do."""
    if payload.tolerance is not None:
        return payload.tolerance
    return FLOAT_TOLERANCE if recipe.precision == "float32" and not plan.model.is_quantised else ROUNDED_TOLERANCE


def _race(plan: LinuxPlan, racers: Sequence[_Racer], run: Any, make: Make, open_session: Any, tell: Progress) -> float | None:
    """Start, prove, judge and time every racer; the source's own accuracy (None where nothing judges)."""
    together = _fit_together(plan, racers)
    for racer in racers:
        tell(f"starting {racer.recipe}")
        artifact = make(plan, racer.recipe, racer.payload, racer.golden, racer.tolerance, (), ())
        racer.start = partial(open_session, artifact, plan.target)
        try:
            racer.session = racer.start() if together else None
            with racer.running() as session:
                racer.engine_version = str(session.info().get("engine_version", ""))
                _prove(racer, session)
        except EmbarqError as error:
            racer.out = str(error)
            racer.absent = isinstance(error, (DeviceError, VersionMismatch)) and not isinstance(error, LinkError)
    source = _judge(plan, racers, run, tell)
    timed = [r for r in racers if r.out is None and (r.recipe.engine != "tensorrt" or plan.target != "local")]  # here TensorRT falls back to the processor
    if len(timed) > 1:
        _time(timed, tell)
    elif timed:
        timed[0].rounds = [timed[0].bench(repeats=20, warmup=3)]
    return source


def _fit_together(plan: LinuxPlan, racers: Sequence[_Racer]) -> bool:
    """Whether the device can hold every candidate at once; if not, each is started for its turn alone."""
    if plan.target == "local":
        return True
    peaks = {c.recipe: c.memory.total_bytes for c in plan.candidates if c.memory is not None}
    return sum(peaks.get(r.recipe, plan.memory_bytes) for r in racers) <= plan.memory_bytes * SHARE


def _prove(racer: _Racer, session: Any) -> None:
    """A float payload gives the source's outputs; a quantised one's own outputs become its golden ones, for other machines to meet."""
    found = [session.run(*vector) for vector in racer.golden.inputs]
    outputs = tuple(tuple(y) if isinstance(y, tuple) else (y,) for y in found)
    for number, (got, wanted) in enumerate(zip(outputs, racer.golden.outputs, strict=True)):
        for index, (g, w) in enumerate(zip(got, wanted, strict=True)):
            if g.shape != w.shape or not np.isfinite(g.astype(np.float64)).all():
                raise VerificationFailed(f"output {index} of {racer.recipe} has shape {list(g.shape)} or is not finite; the source gives {list(w.shape)}")
            difference = float(np.max(np.abs(g.astype(np.float64) - w)) / max(float(np.max(np.abs(w))), 1e-6)) if w.size else 0.0
            if racer.recipe.precision == "float32" and difference > racer.tolerance:
                raise VerificationFailed(
                    f"{racer.recipe} differs from the source by {difference:.1e} of the largest value of output {index}, vector {number} "
                    f"(allowed {racer.tolerance:.0e}); the export is wrong, so choose another backend"
                )
    if racer.recipe.precision != "float32":
        racer.golden = Golden(racer.golden.inputs, outputs, racer.golden.crcs)


def _judge(plan: LinuxPlan, racers: Sequence[_Racer], run: Any, tell: Progress) -> float | None:
    """Accuracy of the source and of every payload; thread counts share one answer, for they share the file."""
    if plan.evaluation is None:
        return None
    total = len(plan.evaluation.samples)
    given = answers(run, plan.evaluation, lambda n: tell(f"the source's answers: {n} of {total}"))
    source = share_right(given, plan.evaluation, given)
    known: dict[int, float] = {}
    for racer in racers:
        if racer.out is not None:
            continue
        if id(racer.payload) not in known:
            known[id(racer.payload)] = share_right(_answers_of(racer, plan.evaluation, tell), plan.evaluation, given)
        racer.accuracy = known[id(racer.payload)]
        drop = 100 * (source - racer.accuracy)
        if drop > plan.accuracy_drop_points:
            racer.out = f"loses {drop:.2f} points, more than the {plan.accuracy_drop_points:g} allowed"
    return source


def _answers_of(racer: _Racer, evaluation: Evaluation, tell: Progress) -> np.ndarray:
    total = len(evaluation.samples)
    with racer.running() as session:
        return answers(lambda x: session.run(*x), evaluation, lambda n: tell(f"{racer.recipe}: {n} of {total} samples"))


def _time(racers: Sequence[_Racer], tell: Progress) -> None:
    """Rounds in which every racer runs in turn, so that what disturbs the machine disturbs all alike."""
    racing = list(racers)
    guesses = {id(r): r.bench(repeats=3, warmup=2) for r in racing}  # how fast is it? not counted: caches and thread pools are cold
    for number in range(2 * ROUNDS):
        fastest = min((r.median_ms for r in racing if r.rounds), default=float("inf"))
        if number == ROUNDS:
            racing = [r for r in racing if r.median_ms <= CLOSE * fastest]
        if number >= ROUNDS and len(racing) < 2:
            return
        for racer in racing:
            tell(f"round {number + 1}: {racer.recipe}")
            racer.rounds.append(racer.bench(repeats=_repeats(guesses[id(racer)], ROUND_MS), warmup=1))
        if number == 1:
            racing = _without_slow(racing)


def _without_slow(racing: Sequence[_Racer]) -> list[_Racer]:
    """Those that can still win; the others are told by how much they cannot."""
    fastest = min(r.median_ms for r in racing)
    for racer in racing:
        if racer.median_ms > RACE_FACTOR * fastest:
            racer.out = f"{racer.median_ms / fastest:.2f}x the time of the fastest"
    return [r for r in racing if r.out is None]


def _repeats(each_ms: float, total_ms: float) -> int:
    """Inferences that take about `total_ms`: 3 to 200."""
    return max(3, min(200, round(total_ms / max(each_ms, 1e-3)))) if np.isfinite(each_ms) else 10


def _best(plan: LinuxPlan, racers: Sequence[_Racer], source: float | None) -> _Racer:
    """The fastest left. For a Jetson that cannot be reached TensorRT at the fewest bits left: nothing here tells its speed, but that halves twice."""
    left = [r for r in racers if r.out is None]
    if not left:
        reasons = "; ".join(f"{r.recipe} {r.out}" for r in racers)
        mend = "allow more (accuracy_drop_points), give more calibration data, or precision='auto'" if source is not None else "choose another backend"
        raise VerificationFailed(f"no recipe of {plan.name} can be kept: {reasons}; {mend}")
    jetson = [r for r in left if r.recipe.engine == "tensorrt"] if plan.target == "local" else []
    if jetson:
        return min(jetson, key=lambda r: BITS.get(r.recipe.precision, 32))
    return min(left, key=lambda r: r.median_ms)


def _row(plan: LinuxPlan, racer: _Racer, chosen: bool, source: float | None) -> Measured:
    size = sum(map(len, racer.payload.files.values()))
    verdict = "chosen" if chosen else racer.out or "slower"
    measured = round(racer.median_ms, 6) if racer.rounds else None
    return Measured(racer.recipe, measured, racer.peak_rss_bytes, racer.accuracy, source, size, racer.engine_version, _where(plan), verdict)


def _where(plan: LinuxPlan) -> str:
    return "this computer" if plan.target == "local" else plan.target
