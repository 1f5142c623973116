"""The native engine: our own kernels in a shared library, held against the interpreter (int8, to the byte) and against torch (float32)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdk
from sdk.backends import native
from sdk.backends.native.build import MACHINES, libraries, sources
from sdk.backends.native.layout import lay_out
from sdk.errors import DeviceError, LinkError, ToolError, UnsupportedOp, UsageError, VerificationFailed
from sdk.golden import random_inputs
from sdk.graph.interpreter import run as interpret
from sdk.linux import choose
from sdk.linux import plan as linux_plan
from sdk.linux.plan import recipes
from sdk.planner.recipes import Recipe
from sdk.runner.bundle import machine
from sdk.runner.engines import open_engine
from sdk.runner.errors import BadRequest, EngineRefused, MachineRefused, VersionRefused
from targets.device import load_device
from tests.data import shared

torch = pytest.importorskip("torch", reason='needs torch (pip install "embarq[torch]")')
pytest.importorskip("ziglang", reason='needs ziglang (pip install "embarq[firmware]")')
HERE = machine()
if HERE not in MACHINES:
    pytest.skip(f"the native engine has no library for this computer ({HERE})", allow_module_level=True)

from tests.torch_nets import FAMILIES  # noqa: E402

INT8, FLOAT = Recipe("native", "int8"), Recipe("native", "float32")


def loaded(family: str) -> tuple[Any, np.ndarray]:
    """The model and smooth inputs for it, [n, 1, ...]."""
    found = FAMILIES[family]
    return sdk.load(found.net(), example=torch.zeros(found.shape), name=family), found.samples(12)[:, None]


@cache
def built(family: str) -> Any:
    """Its int8 payload for this computer."""
    model, x = loaded(family)
    return native.emit(model, INT8, list(x), machines=(HERE,))


def opened(folder: Path, payload: Any) -> Any:
    """The runner's engine on the payload's files."""
    for name, content in payload.files.items():
        (folder / name).write_bytes(content)
    return open_engine("native", str(folder / payload.entry), 1)


def interpreted(graph: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    values = interpret(graph, dict(zip(graph.inputs, arrays, strict=True)))
    return [np.asarray(values[name]) for name in graph.outputs]


# ---- what it computes ----


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v3", "mcunet", "keywords", "unet"])
def test_int8_gives_the_interpreters_bytes(family: str, tmp_path: Path) -> None:
    model, x = loaded(family)
    payload = built(family)
    graph = native.graph_of(model, "int8", list(x))
    engine = opened(tmp_path, payload)
    assert [(name, shape) for name, shape, _ in engine.inputs] == [(p.name, p.shape) for p in payload.inputs]
    seen = set()
    for sample in [*x[:3], np.full_like(x[0], 1e6), np.zeros_like(x[0])]:
        have, want = engine.run([sample]), interpreted(graph, [sample])
        assert [a.tobytes() for a in have] == [a.tobytes() for a in want]
        seen.add(have[0].tobytes())
    assert len(seen) > 3, "the answers follow the inputs"


@pytest.mark.parametrize("family", ["resnet", "encoder_sdpa"])
def test_float32_gives_what_torch_does(family: str, tmp_path: Path) -> None:
    model, x = loaded(family)
    engine = opened(tmp_path, native.emit(model, FLOAT, machines=(HERE,)))
    for sample in x[:3]:
        with torch.no_grad():
            want = FAMILIES[family].net()(torch.from_numpy(sample)).numpy()
        (have,) = engine.run([sample])
        assert have.shape == want.shape and np.abs(have - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["ic01_resnet8_int8", "kws01_dscnn_int8"])
def test_a_quantised_tflite_keeps_its_integers(name: str, tmp_path: Path) -> None:
    model = sdk.load(shared(f"mlperf_tiny/models/{name}.tflite"))
    payload = native.emit(model, INT8, machines=(HERE,))
    engine = opened(tmp_path, payload)
    assert payload.tolerance == 0.0 and payload.inputs[0].dtype == "int8" and payload.inputs[0].scale
    (inputs,) = random_inputs(model.graph, 1)
    assert [a.tobytes() for a in engine.run(list(inputs))] == [a.tobytes() for a in interpreted(model.graph, list(inputs))]


def test_the_outputs_are_the_callers_own_and_the_inputs_stay(tmp_path: Path) -> None:
    x = loaded("keywords")[1]
    engine = opened(tmp_path, built("keywords"))
    given = x[0].copy()
    first = engine.run([given])[0]
    kept = first.copy()
    engine.run([x[1]])
    assert np.array_equal(first, kept) and np.array_equal(given, x[0])
    assert np.array_equal(engine.run([given])[0], kept), "nothing of an inference stays for the next one"


def test_every_step_has_its_time(tmp_path: Path) -> None:
    model, x = loaded("resnet")
    engine = opened(tmp_path, built("resnet"))
    rows = engine.profile([x[0]], 2)
    laid = lay_out(native.graph_of(model, "int8", list(x)))
    assert [(r["name"], r["op"]) for r in rows] == [(s["name"], s["op"]) for s in laid.steps]
    assert all(r["ms"] > 0 for r in rows) and max(rows, key=lambda r: r["ms"])["op"] == "conv2d"


def test_the_same_model_gives_the_same_library_and_large_constants_go_round_the_compiler() -> None:
    model = sdk.load(shared("mlperf_tiny/models/ic01_resnet8_int8.tflite"))
    laid = lay_out(native.graph_of(model, "int8", ()))
    first, again = (libraries(laid, (HERE,))[HERE] for _ in range(2))
    assert first == again
    largest = max((a for call in laid.calls for a in call.constants.values()), key=lambda a: a.nbytes)
    assert largest.nbytes >= 4096 and largest.tobytes() in first and f"{largest.size}" in sources(laid)["model.c"].decode()
    assert len(sources(laid)["model.c"]) < sum(a.nbytes for call in laid.calls for a in call.constants.values())


# ---- when it is taken ----


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, np.ndarray]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 5)).eval()
    x = np.random.default_rng(5).standard_normal((24, 3, 8, 8)).astype("float32")
    return sdk.load(net, example=torch.from_numpy(x[:1]), name="tiny"), x


def test_auto_leaves_it_for_want_of_others_and_by_name_it_is_there(tiny: Any) -> None:
    model, x = tiny
    plan = sdk.plan("rpi-4b", model, calibration=x, threads=1)
    assert "native" not in {c.recipe.engine for c in plan.candidates} and [r.name for r in plan.spare] == ["native/float32/1t", "native/int8/1t"]
    named = sdk.plan("rpi-4b", model, calibration=x, backend="native")
    assert [c.recipe.name for c in named.kept] == ["native/float32/1t", "native/int8/1t"] and not named.spare
    bare = replace(load_device("rpi-4b"), backends=("native",))
    assert [r.name for r in recipes(bare, model, "auto", "auto", None, calibrated=False)] == ["native/float32/1t"]


def test_auto_takes_it_where_no_engine_is_installed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = linux_plan.find_spec
    monkeypatch.setattr(linux_plan, "find_spec", lambda name: real(name) if name == "ziglang" else None)
    plan = sdk.plan("rpi-4b", tiny[0], threads=1)
    assert plan.backend == "native" and "is not installed on this computer" in str(plan)


class Session:
    """Answers as the model does; the native one is the slow one."""

    def __init__(self, answer: Any) -> None:
        self.run, self.median_ms = answer, 9.0

    def info(self) -> dict[str, str]:
        return {"engine_version": "1"}

    def bench(self, **_: Any) -> Any:
        return self

    def health(self) -> dict[str, int]:
        return {"peak_rss_bytes": 1}

    def close(self) -> None:
        pass


def raced(tiny: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[Recipe, list[Any]]:
    """`compile` where every engine but ours raises `error` when it is started: (the recipe kept, the rows of the table)."""
    model = tiny[0]
    made = native.emit(model, FLOAT, machines=(HERE,))
    answer = choose.reference(model)

    def start(artifact: Any, target: str) -> Session:
        if artifact[0].engine != "native":
            raise error
        return Session(lambda *a: answer(a)[0])

    monkeypatch.setattr(choose, "import_module", lambda _: type("Backend", (), {"emit": staticmethod(lambda *_: made)}))
    plan = sdk.plan("rpi-4b", model, threads=1, target="ssh://pi@nowhere")
    return choose.compile_linux(plan, lambda plan, recipe, *rest: (recipe, rest[3]), start)


def test_compile_takes_it_where_the_device_can_start_no_other(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, rows = raced(tiny, monkeypatch, DeviceError("pi: needs onnxruntime==1.32.0, not installed"))
    assert recipe == FLOAT
    assert {r.recipe.engine: r.verdict for r in rows}["native"] == "chosen" and sum("not installed" in r.verdict for r in rows) == len(rows) - 1


@pytest.mark.parametrize("error", [LinkError("the line is cut"), VerificationFailed("differs from the source")])
def test_it_does_not_hide_that_the_device_is_away_or_an_engine_wrong(tiny: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(VerificationFailed, match=str(error)):
        raced(tiny, monkeypatch, error)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (Recipe("native", "float16"), "computes in float32 and int8, not in float16; choose one of them"),
        (Recipe("native", "int8", 4), "runs on one thread and 4 were asked for; give threads=1"),
        (Recipe("native", "int8", 1, {"bits": 4}), "has no option 'bits'; leave it out"),
    ],
)
def test_a_recipe_it_cannot_have_is_one_sentence(tiny: Any, recipe: Recipe, sentence: str) -> None:
    assert sentence in str(native.refusal(tiny[0], recipe))
    with pytest.raises(UnsupportedOp, match=re.escape(sentence)):
        native.emit(tiny[0], recipe, machines=())


def test_int8_without_data_is_refused(tiny: Any) -> None:
    with pytest.raises(UsageError, match="int8 needs calibration data"):
        native.emit(tiny[0], INT8, machines=())


def test_an_op_without_a_kernel_is_named_with_another_engine() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.svdvals(x)

    model = sdk.load(Odd(), example=torch.zeros(1, 1, 6, 6), name="odd")
    with pytest.raises(UnsupportedOp, match=r"svd.*no kernel of ours computes.*choose the engine onnx"):
        sdk.plan("rpi-4b", model, backend="native")


def test_without_the_compiler_the_extra_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdk.backends.firmware import toolchain

    monkeypatch.setattr(toolchain.util, "find_spec", lambda _: None)
    with pytest.raises(ToolError, match=re.escape('pip install "embarq[firmware]"')):
        native.emit(tiny[0], FLOAT, machines=(HERE,))


# ---- the artifact ----


def test_from_plan_to_a_session_that_is_proved_to_the_byte(tiny: Any, tmp_path: Path) -> None:
    """All four libraries are in the artifact, the memory is as the plan says, and a changed golden byte is found."""
    model, x = tiny
    plan = sdk.plan("host", model, backend="native", precision="int8", calibration=x, accuracy_drop_points=100)
    artifact = sdk.compile(plan)
    assert {Path(name).stem for name in artifact.files if name.endswith(".so")} == set(MACHINES)
    assert artifact.manifest["golden"]["tolerance"] == 0.0 and artifact.manifest["requires"] == {} and artifact.manifest["machine"] == "any"
    artifact.save(tmp_path / "tiny")
    with sdk.open(tmp_path / "tiny").flash("local") as session:
        want = interpreted(native.graph_of(model, "int8", x), [x[:1]])[0]
        assert session.run(x[:1]).tobytes() == want.tobytes()
        peak = session.bench(repeats=3).peak_rss_bytes
    predicted = plan.kept[0].memory
    assert predicted is not None and abs(predicted.total_bytes - peak) <= max(0.1 * peak, 8 << 20)


@pytest.mark.parametrize(
    ("index", "error", "sentence"),
    [
        (b"{", EngineRefused, "cannot be read"),
        (b"[]", EngineRefused, "is not the index of a native model"),
        (json.dumps({"format": "embarq-native", "version": 9, "libraries": {}}).encode(), VersionRefused, "has version 9 and this runner reads 1"),
        (json.dumps({"format": "embarq-native", "version": 1, "libraries": {"vax": "vax.so"}}).encode(), MachineRefused, f"libraries for vax and this machine is {HERE}"),  # noqa: E501
        (json.dumps({"format": "embarq-native", "version": 1, "libraries": {HERE: "../x.so"}}).encode(), EngineRefused, "which is not beside it"),
        (json.dumps({"format": "embarq-native", "version": 1, "libraries": {HERE: "x.so"}}).encode(), EngineRefused, "cannot be loaded"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, index: bytes, error: type[Exception], sentence: str) -> None:
    (tmp_path / "native.json").write_bytes(index)
    (tmp_path / "x.so").write_bytes(b"\x7fELF and nothing else")
    with pytest.raises(error, match=re.escape(sentence)) as caught:
        open_engine("native", str(tmp_path / "native.json"), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("threads", "options", "sentence"), [(2, {}, "runs on one thread and 2 were asked for"), (1, {"fast": 1}, "native has no option 'fast'")]
)
def test_wrong_threads_and_options_are_refused(tmp_path: Path, threads: int, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(sentence)):
        open_engine("native", str(tmp_path / "native.json"), threads, options)


# ---- the kernels written for processors with vectors ----


def test_convolutions_of_every_geometry_give_the_interpreters_bytes(tmp_path: Path) -> None:
    """Strides, dilations, groups, multipliers, borders, channels that fill no block: side by side in one graph, one library."""

    class Many(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = torch.nn.Conv2d
            self.parts = torch.nn.ModuleList([
                conv(12, 5, 1), conv(12, 9, 3, padding=1), conv(12, 7, 3, 2, padding=2), conv(12, 6, 3, dilation=2, padding=3), conv(12, 10, (1, 5), (2, 1)),
                conv(12, 12, 3, groups=3), conv(12, 18, 3, padding=1, groups=6), conv(12, 12, 3, padding=1, groups=12), conv(12, 12, 5, 2, 3, groups=12),
                conv(12, 36, 3, padding=1, groups=12), conv(12, 12, 3, 1, 2, 2, groups=12), torch.nn.Sequential(conv(12, 70, 1), conv(70, 70, 3, groups=70)),
            ])  # fmt: skip

        def forward(self, x: Any) -> Any:
            return tuple(part(x) for part in self.parts)

    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((6, 1, 12, 9, 11)).astype("float32")
    model = sdk.load(Many().eval(), example=torch.zeros(1, 12, 9, 11), name="many")
    graph = native.graph_of(model, "int8", list(x))
    functions = {call.function for call in lay_out(graph).calls}
    assert {"embarq_conv2d_s8", "embarq_depthwise_s8"} <= functions
    engine = opened(tmp_path, native.emit(model, INT8, list(x), machines=(HERE,)))
    for sample in (x[0], 50 * x[1]):
        have, want = engine.run([sample]), interpreted(graph, [sample])
        assert len(have) == 12 and [a.tobytes() for a in have] == [a.tobytes() for a in want]
