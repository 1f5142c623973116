"""`plan` for Linux devices: which recipes could run the model, what each would take, which are ruled out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sdk.data import Calibration, read
from sdk.errors import EmbarqError, UnsupportedOp, UsageError
from sdk.linux.evaluate import evaluation_of
from sdk.model import Model
from sdk.planner.linux_records import Candidate, LinuxPlan
from sdk.planner.recipes import ENGINES, LAST_RESORT, Recipe
from sdk.planner.records import Mend, Plan
from targets.device import Device

CALIBRATION_SAMPLES = 256
#: Engine -> (module, extra) that building its file needs on this computer; LiteRT's files are written without it.
BUILDS_WITH: Mapping[str, tuple[tuple[str, str], ...]] = {
    "onnx": (("onnx", "onnxruntime"), ("onnxruntime", "onnxruntime")), "litert": (), "tensorrt": (("onnx", "onnxruntime"), ("onnxruntime", "onnxruntime")),
    "executorch": (("executorch", "executorch"), ("torchao", "executorch")), "native": (("ziglang", "firmware"),),
}  # fmt: skip
#: The same for trying it here.
RUNS_WITH = {"litert": ("ai_edge_litert", "litert")}
PRECISIONS = ("auto", "float32", "int8", "dynamic-int8", "float16")
Progress = Callable[[str], None]


def plan_linux(
    device: Device,
    model: Model,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | Sequence[int] | None = None,
    calibration: Any = None,
    evaluation: Any = None,
    accuracy_drop_points: float = 1.0,
    target: str = "local",
    quant_report: bool = False,
    vectors: Sequence[Any] = (),
    progress: Progress | None = None,
) -> LinuxPlan:
    """The recipes for `model` on `device`; arguments as in `sdk.planning.plan_model`.

    Raises `UnsupportedOp` when every engine refuses the model, `UsageError` and `DataError` for bad options and data.
    """
    from sdk.planner.assess import main_memory

    _check(device, backend, precision, accuracy_drop_points)
    model = _as_the_file_is(model)
    tell = progress or (lambda _: None)
    samples = None if calibration is None else read(calibration, model.graph, CALIBRATION_SAMPLES)
    judged = evaluation_of(model, evaluation, samples)
    tell("lifetimes")
    base = _base(device, model)
    candidates = []
    for recipe in recipes(device, model, backend, precision, threads, samples is not None):
        tell(recipe.name)
        candidates.append(_candidate(device, model, base, recipe, samples, target))
    spare = tuple(recipes(device, model, LAST_RESORT, precision, None, samples is not None)) if backend == "auto" else ()
    if spare and all(c.refusal is not None for c in candidates):  # no engine's wheel here, or none takes the model
        candidates += [_candidate(device, model, base, recipe, samples, target) for recipe in spare if recipe not in [c.recipe for c in candidates]]
        spare = ()
    _refuse_if_none(model, device, candidates)
    made = LinuxPlan(
        name=model.name, device=device, model=model, base=base, candidates=tuple(candidates), memory_bytes=main_memory(device).usable_bytes,
        accuracy_drop_points=accuracy_drop_points, calibration=samples, evaluation=judged, target=target,
        layer_report=quant_report,
        decisions=tuple(_decisions(device, model, samples, judged, candidates, accuracy_drop_points, quant_report)), vectors=_vectors(model, vectors, samples),
        spare=spare,
    )  # fmt: skip
    return made if made.fits else _with_mends(made, precision)


def recipes(device: Device, model: Model, backend: str, precision: str, threads: int | Sequence[int] | None, calibrated: bool) -> Iterator[Recipe]:
    """Every recipe to look at: engines in the device's order, precisions as asked, one thread and all cores unless told."""
    engines = [backend] if backend != "auto" else [e for e in device.backends if e in ENGINES] or [LAST_RESORT]
    counts = sorted({1, sum(c.count for c in device.cores)}) if threads is None else [threads] if isinstance(threads, int) else list(threads)
    for engine in engines:
        for each in _precisions(model, precision, calibrated, engine):
            if engine == "tensorrt":  # a GPU: threads do not matter, and its opset and precisions depend on the board
                yield Recipe(engine, each, 1, {"device": device.name})
            elif engine == LAST_RESORT and threads is None:
                yield Recipe(engine, each)  # it has one thread
            else:
                yield from (Recipe(engine, each, int(count)) for count in counts)


def _precisions(model: Model, asked: str, calibrated: bool, engine: str) -> tuple[str, ...]:
    if model.is_quantised:
        return ("int8",)
    if asked != "auto":
        return (asked,)
    half = ("float16",) if engine == "tensorrt" else ()
    shrunk = ("int8",) if engine == LAST_RESORT else ("int8", "dynamic-int8")
    return ("float32", *half, *(shrunk if calibrated else ()))


def _check(device: Device, backend: str, precision: str, drop: float) -> None:
    known = [*(e for e in device.backends if e in ENGINES and e != LAST_RESORT), LAST_RESORT]
    if backend != "auto" and backend not in known:
        raise UsageError(f"{device.name} has no backend {backend!r}; choose one of {', '.join(known)} or auto")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    if not 0 <= drop <= 100:
        raise UsageError(f"accuracy_drop_points is {drop}; give percentage points from 0 to 100")


def _as_the_file_is(model: Model) -> Model:
    """Quantised ONNX models take and give real numbers, as engines see them; for microcontrollers the importer hands out integers."""
    from dataclasses import replace

    from sdk.backends.litert.interface import float_edges

    return replace(model, graph=float_edges(model.graph)) if model.kind == "onnx" and model.is_quantised else model


def _base(device: Device, model: Model) -> Plan:
    """Order and lifetimes of the model's own graph; engines reuse buffers much as the planner does."""
    from sdk.passes.pipeline import prepare
    from sdk.planner.plan import make_plan

    return make_plan(device, prepare(model.graph), name=model.name, mends=False)


def _candidate(device: Device, model: Model, base: Plan, recipe: Recipe, samples: Calibration | None, target: str) -> Candidate:
    from sdk.planner.engine_cost import latency, peak_memory

    refusal = _refusal(model, recipe, samples) or _not_installed(recipe.engine, target)
    if refusal is not None:
        return Candidate(recipe, refusal=refusal)
    if recipe.engine == LAST_RESORT:
        from sdk.backends import native

        return Candidate(recipe, native.peak_memory(model, recipe))
    return Candidate(recipe, peak_memory(base, recipe, device), latency(base, recipe, device))


def _refusal(model: Model, recipe: Recipe, samples: Calibration | None) -> str | None:
    if model.is_quantised and model.kind == "tflite" and recipe.engine not in ("litert", LAST_RESORT):
        return f"{model.name} came quantised for LiteRT; {recipe.engine} would have to quantise it anew, so load the float model for it"
    if recipe.precision == "int8" and samples is None and not model.is_quantised:
        return "int8 needs calibration data; give calibration=, a few hundred real inputs"
    try:
        backend = import_module(f"sdk.backends.{recipe.engine}")
        return backend.refusal(model, recipe)  # type: ignore[no-any-return]
    except EmbarqError as error:
        return str(error)


def _not_installed(engine: str, target: str) -> str | None:
    """The sentence for an engine that this computer cannot build for, or not try; None when it can."""
    needed = BUILDS_WITH[engine] + ((RUNS_WITH[engine],) if target == "local" and engine in RUNS_WITH else ())
    for module, extra in needed:
        if find_spec(module) is None:
            return f'{module} is not installed on this computer; pip install "embarq[{extra}]"'
    return None


def _refuse_if_none(model: Model, device: Device, candidates: Sequence[Candidate]) -> None:
    if any(c.refusal is None for c in candidates):
        return
    reasons: dict[str, str] = {}
    for c in candidates:
        reasons.setdefault(str(c.refusal), c.recipe.engine)
    told = "; ".join(f"{engine}: {reason}" for reason, engine in reasons.items()) or f"{device.name} has none of {', '.join(ENGINES)}"
    raise UnsupportedOp(f"no engine of {device.name} takes {model.name}: {told}")


def _decisions(
    device: Device, model: Model, samples: Calibration | None, judged: Any, candidates: Sequence[Candidate], drop: float, report: bool
) -> Iterator[str]:
    kept = [c for c in candidates if c.refusal is None]
    tried = f"{len(kept)} of {len(candidates)} recipes are tried"
    yield f"{tried}: compile builds each, measures them in turns in one run and keeps the fastest that is accurate enough."
    if samples is not None:
        yield f"Every engine is calibrated on the same {samples.count} samples."
    elif not model.is_quantised:
        yield "Only float32 is tried, because no calibration data was given; give some to have int8 tried too."
    if judged is not None:
        yield f"A recipe may lose {drop:g} points of {judged.name}."
    if report:
        yield "What quantising costs each layer is told by compile, for the recipe it keeps."
    reasons: dict[str, list[str]] = {}
    for c in candidates:
        if c.refusal is not None:
            reasons.setdefault(c.refusal, []).append(c.recipe.name)
    for reason, names in reasons.items():
        yield f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} out: {reason}."
    if any(c.recipe.engine == "tensorrt" for c in kept):
        yield f"TensorRT builds its engine on the {device.name} itself, at the first start; until then nothing is known of its speed there."


def _vectors(model: Model, vectors: Sequence[Any], samples: Calibration | None) -> tuple[tuple[Any, ...], ...]:
    """Inputs to prove with: the user's, else two calibration samples, and a random one where the inputs are real numbers."""
    from sdk.golden import check_input, random_inputs

    graph = model.graph
    given = [v if isinstance(v, (tuple, list)) else (v,) for v in vectors]
    if not given and samples is not None:
        given = [tuple(row[n] for n in graph.inputs) for row in (samples.load(i) for i in range(min(2, samples.count)))]
    rows = [tuple(check_input(graph[n], part) for n, part in zip(graph.inputs, row, strict=True)) for row in given]
    if rows and any(graph[n].dtype != "float32" for n in graph.inputs):
        return tuple(rows)
    return tuple(rows + random_inputs(graph, 1 if rows else 3))


def _with_mends(plan: LinuxPlan, precision: str) -> LinuxPlan:
    from dataclasses import replace

    mends = []
    if precision in ("auto", "float32") and plan.calibration is None and not plan.model.is_quantised:
        mends.append(Mend("quantise to int8 (give calibration=): a quarter of the bytes of weights and activations", False, 0, 0, {"precision": "int8"}))
    mends.append(Mend("choose a smaller model, or a device with more memory (embarq devices)", False, 0, 0))
    return replace(plan, mends=tuple(mends))
