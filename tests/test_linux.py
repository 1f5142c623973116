"""Linux devices from a model to a proven artifact: which recipes are kept, how one is chosen, what is refused and how."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdk
from sdk import cli
from sdk.backends.payload import Payload, Port
from sdk.errors import DataError, DoesNotFit, ModelError, UnsupportedOp, UsageError, VerificationFailed
from sdk.golden import Golden
from sdk.linux import choose
from sdk.linux import plan as linux_plan
from sdk.linux.plan import recipes
from sdk.planner.linux_records import Candidate, PeakMemory
from sdk.planner.recipes import Recipe
from targets.device import load_device

torch = pytest.importorskip("torch", reason='needs torch (pip install "embarq[torch]")')

RNG = np.random.default_rng(5)
X = RNG.standard_normal((24, 3, 8, 8)).astype("float32")


def net() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = (torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 5))
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def work() -> Any:
    return sdk.load(net(), example=torch.from_numpy(X[:1]), name="tiny")


def labels() -> np.ndarray:
    with torch.no_grad():
        return net()(torch.from_numpy(X)).argmax(1).numpy()


# ---- what is kept ----


def test_recipes_follow_the_devices_engines_and_the_wish(work: Any) -> None:
    pi = load_device("rpi-4b")
    names = [r.name for r in recipes(pi, work, "auto", "auto", None, calibrated=True)]
    assert names[:2] == ["executorch/float32/1t", "executorch/float32/4t"]
    assert {n.split("/")[1] for n in names} == {"float32", "int8", "dynamic-int8"}
    assert [r.name for r in recipes(pi, work, "onnx", "int8", 3, calibrated=True)] == ["onnx/int8/3t"]
    assert {r.precision for r in recipes(pi, work, "auto", "auto", 1, calibrated=False)} == {"float32"}
    assert "float16" in {r.precision for r in recipes(load_device("jetson-orin-nano"), work, "auto", "auto", 1, calibrated=False)}


def test_a_plan_says_what_is_tried_and_why_the_rest_is_not(work: Any) -> None:
    plan = sdk.plan("rpi-4b", work, backend="litert", calibration=X, threads=1)
    text = str(plan)
    assert plan.fits and plan.backend == "litert"
    assert {c.recipe.precision for c in plan.kept} == {"float32", "int8"}
    assert "dynamic-int8" in text and "is out" in text and "same 24 samples" in text
    again = json.loads(json.dumps(plan.to_dict()))
    assert again["kind"] == "linux" and again["macs"] == plan.base.macs == 3 * 3 * 8 * 27 + 72 * 5
    assert "<h1>tiny on rpi-4b</h1>" in plan.to_html()


def test_too_large_is_told_in_exact_bytes_by_plan_and_refused_by_compile(work: Any) -> None:
    plan = sdk.plan("rpi-4b", work, backend="litert", threads=1)
    memory = PeakMemory(1 << 30, 1 << 30, 1 << 30, "for the test")
    big = replace(plan, candidates=(Candidate(Recipe("litert", "float32"), memory),), memory_bytes=(3 << 30) - 7)
    assert not big.fits and big.shortfall[0].over_bytes == 7
    with pytest.raises(DoesNotFit, match="7 bytes too small"):
        sdk.compile(big)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"backend": "tensorrt"}, UsageError, "rpi-4b has no backend 'tensorrt'; choose one of"),
        ({"precision": "int4"}, UsageError, "precision 'int4' is not known; choose one of"),
        ({"accuracy_drop_points": -1}, UsageError, "from 0 to 100"),
        ({"threads": 0}, UsageError, "0 threads were asked for; give 1 or more"),
        ({"precision": "int8"}, UnsupportedOp, "int8 needs calibration data"),
        ({"evaluation": X}, DataError, "a pair"),
        ({"evaluation": (X, np.zeros((24, 2), int))}, DataError, "one whole number for each input"),
        ({"calibration": X[:, :2]}, DataError, "3, 8, 8"),
        ({"keep_input": True}, UsageError, "keep_input is for microcontrollers"),
        ({"colour": "red"}, UsageError, "no option 'colour'"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_wrong_wish_is_one_sentence(work: Any, options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        sdk.plan("rpi-4b", work, **options)
    assert "\n" not in str(caught.value)


def test_options_for_linux_are_refused_for_microcontrollers(work: Any) -> None:
    with pytest.raises(UsageError, match="backend is for Linux devices and stm32f405 is a microcontroller"):
        sdk.plan("stm32f405", work, backend="onnx")


def test_an_op_that_no_engine_takes_is_named_with_each_engines_reason() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.svdvals(x)

    model = sdk.load(Odd(), example=torch.zeros(1, 1, 6, 6), name="odd")
    with pytest.raises(UnsupportedOp, match="svd"):
        sdk.plan("rpi-4b", model, backend="litert", threads=1)


# ---- how one is chosen: the rules alone, with sessions that are told how fast they are ----


@dataclass
class Bench:
    median_ms: float


@dataclass
class Session:
    """Runs `answer`, takes `ms` for it."""

    answer: Any
    ms: float
    closed: bool = False

    def info(self) -> dict[str, str]:
        return {"engine_version": "1"}

    def run(self, *x: np.ndarray) -> np.ndarray:
        return self.answer(*x)

    def bench(self, **_: Any) -> Bench:
        return Bench(self.ms)

    def health(self) -> dict[str, int]:
        return {"peak_rss_bytes": 50 << 20}

    def close(self) -> None:
        self.closed = True


@dataclass
class Field:
    """Everyone who runs: recipe name -> (answer, ms). Stands in for the exporters, the artifact writer and the runner."""

    who: dict[str, tuple[Any, float]]
    sessions: list[Session] = field(default_factory=list)
    most_open: int = 0

    def make(self, plan: Any, recipe: Recipe, payload: Payload, golden: Golden, tolerance: float, measured: Any, layers: Any) -> Any:
        return recipe, golden, tolerance, measured

    def open(self, artifact: Any, target: str) -> Session:
        self.sessions.append(Session(*self.who[artifact[0].name]))
        self.most_open = max(self.most_open, sum(not s.closed for s in self.sessions))
        return self.sessions[-1]


def race(monkeypatch: pytest.MonkeyPatch, work: Any, who: dict[str, tuple[Any, float]], broken: str = "", memory_bytes: int = 4 << 30,
         **options: Any) -> tuple[Any, Field]:  # fmt: skip
    plan = sdk.plan("rpi-4b", work, backend="litert", threads=1, calibration=X, **options)
    each = PeakMemory(100 << 20, 0, 0, "for the test")
    candidates = tuple(Candidate(Recipe(n.split("/")[0], n.split("/")[1], int(n.split("/")[2][:-1])), each) for n in who)
    plan = replace(plan, candidates=candidates, memory_bytes=memory_bytes)
    port = (Port("x", (1, 3, 8, 8), "float32"),)

    class Backend:
        @staticmethod
        def emit(model: Any, recipe: Recipe, *_: Any) -> Payload:
            if recipe.engine == broken:
                raise UnsupportedOp("no such operator")
            return Payload({"m": b"1"}, "m", port, port, {})

    monkeypatch.setattr(choose, "import_module", lambda _: Backend)
    there = Field(who)
    return choose.compile_linux(plan, there.make, there.open), there


def right(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net()(torch.from_numpy(np.array(x))).numpy()


def wrong(x: np.ndarray) -> np.ndarray:
    return -right(x)


def test_the_fastest_accurate_one_is_chosen_and_all_are_told(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    who = {"litert/float32/1t": (right, 3.0), "onnx/float32/1t": (right, 2.0), "onnx/int8/1t": (wrong, 1.0), "executorch/float32/1t": (right, 9.0)}
    (recipe, golden, tolerance, rows), there = race(monkeypatch, work, who, evaluation=(X, labels()))
    assert recipe.name == "onnx/float32/1t" and tolerance == choose.FLOAT_TOLERANCE
    by_name = {row.recipe.name: row for row in rows}
    assert by_name["onnx/float32/1t"].verdict == "chosen" and by_name["onnx/float32/1t"].accuracy == 1.0
    assert by_name["onnx/int8/1t"].drop_points == 100 and "loses 100.00 points" in by_name["onnx/int8/1t"].verdict
    assert "x the time of the fastest" in by_name["executorch/float32/1t"].verdict
    assert by_name["litert/float32/1t"].verdict == "slower" and by_name["litert/float32/1t"].peak_rss_bytes == 50 << 20
    assert all(s.closed for s in there.sessions)
    assert len(golden) == 3 and np.allclose(golden.outputs[0][0], right(golden.inputs[0][0]))


@pytest.mark.parametrize(("memory_mib", "open_at_once"), [(4096, 2), (256, 1)])
def test_candidates_run_one_at_a_time_where_the_device_cannot_hold_them_all(monkeypatch: Any, work: Any, memory_mib: int, open_at_once: int) -> None:
    who = {"litert/float32/1t": (right, 3.0), "onnx/float32/1t": (right, 2.0)}
    (recipe, _, _, _), there = race(monkeypatch, work, who, memory_bytes=memory_mib << 20, target="ssh://pi@device")
    assert recipe.name == "onnx/float32/1t" and there.most_open == open_at_once and all(s.closed for s in there.sessions)


def test_a_recipe_that_cannot_be_built_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    who = {"litert/float32/1t": (right, 3.0), "onnx/float32/1t": (right, 1.0)}
    (recipe, _, _, rows), _ = race(monkeypatch, work, who, broken="onnx")
    assert recipe.name == "litert/float32/1t"
    assert next(r.verdict for r in rows if r.recipe.engine == "onnx") == "not built: no such operator"
    with pytest.raises(UnsupportedOp, match="no engine could build tiny: onnx/float32: no such operator"):
        race(monkeypatch, work, {"onnx/float32/1t": (right, 1.0)}, broken="onnx")


def test_an_engine_that_is_not_installed_is_out_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    real = linux_plan.find_spec
    monkeypatch.setattr(linux_plan, "find_spec", lambda name: None if name in ("executorch", "ai_edge_litert") else real(name))
    plan = sdk.plan("rpi-4b", work, threads=1)
    reasons = {c.recipe.engine: c.refusal or "" for c in plan.candidates}
    assert 'executorch is not installed on this computer; pip install "embarq[executorch]"' in reasons["executorch"]
    assert "embarq[litert]" in reasons["litert"]
    away = sdk.plan("rpi-4b", work, threads=1, backend="litert", target="ssh://pi@nowhere")  # written here, run there
    assert away.fits


def test_a_float_payload_that_computes_something_else_is_out(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    who = {"litert/float32/1t": (right, 3.0), "onnx/float32/1t": (wrong, 1.0)}
    (recipe, _, _, rows), _ = race(monkeypatch, work, who)
    assert recipe.name == "litert/float32/1t"
    assert "differs from the source" in next(r.verdict for r in rows if r.recipe.engine == "onnx")


def test_int8_vectors_are_the_payloads_own_answers(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    def near(x: np.ndarray) -> np.ndarray:
        return (right(x) * 1.01).astype("float32")

    (recipe, golden, tolerance, _), _ = race(monkeypatch, work, {"onnx/int8/1t": (near, 1.0)})
    assert recipe.precision == "int8" and tolerance == choose.ROUNDED_TOLERANCE
    assert np.array_equal(golden.outputs[1][0], near(golden.inputs[1][0]))


def test_when_none_is_accurate_enough_every_reason_is_told(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    with pytest.raises(VerificationFailed, match=r"loses 100\.00 points, more than the 1 allowed.*accuracy_drop_points"):
        race(monkeypatch, work, {"onnx/int8/1t": (wrong, 1.0)}, evaluation=(X, labels()))


def test_for_a_jetson_out_of_reach_the_fewest_bits_that_are_accurate_are_chosen(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    who = {"onnx/float32/1t": (right, 1.0), "tensorrt/float32/1t": (right, 9.0), "tensorrt/float16/1t": (right, 8.0), "tensorrt/int8/1t": (wrong, 7.0)}
    (recipe, _, _, _), _ = race(monkeypatch, work, who)
    assert recipe.name == "tensorrt/float16/1t"
    names = [r.name for r in recipes(load_device("jetson-orin-nano"), work, "tensorrt", "auto", None, calibrated=True)]
    assert len(names) == len(set(names)) and all(n.endswith("/1t") for n in names)


def test_without_labels_agreement_with_the_source_judges(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    (recipe, _, _, rows), _ = race(monkeypatch, work, {"onnx/int8/1t": (wrong, 1.0), "onnx/float32/1t": (right, 2.0)})
    assert recipe.precision == "float32" and rows[0].source_accuracy == 1.0


# ---- the whole way, with a real engine ----


def test_from_a_torch_net_to_a_proven_artifact(work: Any, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason='needs LiteRT (pip install "embarq[litert]")')
    told: list[str] = []
    artifact = sdk.compile(sdk.plan("host", work, backend="litert", threads=1, calibration=X, evaluation=(X, labels()), accuracy_drop_points=10), told.append)
    assert any("round 1" in line for line in told)
    artifact.save(tmp_path / "out")
    opened = sdk.open(tmp_path / "out")
    assert opened.is_linux and opened.manifest["requires"] == {"ai-edge-litert": "2.3.0"}
    with opened.flash() as session:
        assert session.verify().ok
        assert np.allclose(session.run(X[:1]), right(X[:1]), atol=0.1)
        assert session.bench(repeats=3).median_ms > 0
    assert "chosen" in opened.measured_text()[0]


def test_a_model_of_tokens_is_proved_without_data() -> None:
    pytest.importorskip("ai_edge_litert", reason='needs LiteRT (pip install "embarq[litert]")')
    tokens = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Flatten(), torch.nn.Linear(32, 5)).eval()
    model = sdk.load(tokens, example=torch.zeros(1, 4, dtype=torch.int64), name="tokens")
    plan = sdk.plan("host", model, backend="litert", threads=1)
    assert all(v[0].min() >= 0 and v[0].max() < 50 for v in plan.vectors)
    assert sdk.compile(plan).manifest["golden"]["vectors"] == 3
    with pytest.raises(ModelError, match="cannot compute the inputs it is to be proved with"):
        sdk.compile(sdk.plan("host", model, backend="litert", threads=1, vectors=[np.full((1, 4), 999)]))


@pytest.mark.parametrize(("engine", "package"), [("litert", "ai_edge_litert"), ("onnx", "onnxruntime")])
def test_what_quantising_costs_is_told_layer_by_layer(work: Any, engine: str, package: str) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    plan = sdk.plan("host", work, backend=engine, precision="int8", threads=1, calibration=X, accuracy_drop_points=100, quant_report=True)
    assert "told by compile" in str(plan)
    artifact = sdk.compile(plan)
    rows = artifact.layer_errors
    assert len(rows) >= 2 and all(5 < row["sqnr_db"] < 100 for row in rows if row["op"].lower() in ("conv", "conv2d", "dense", "gemm"))
    assert "SQNR" in artifact.measured_text()[1]


def test_prepare_changes_a_copy_before_the_export() -> None:
    mine = net()

    def drop_relu(module: Any) -> Any:
        module[1] = torch.nn.Identity()
        return module

    model = sdk.load(mine, example=torch.from_numpy(X[:1]), prepare=[drop_relu])
    assert isinstance(mine[1], torch.nn.ReLU)
    assert all(node.attrs.get("activation", "none") == "none" and node.op != "relu" for node in model.graph.nodes)
    with pytest.raises(UsageError, match=r"returned a NoneType; return the nn\.Module"):
        sdk.load(mine, example=torch.from_numpy(X[:1]), prepare=[lambda m: None])
    with pytest.raises(UsageError, match=r"str is none; give the nn\.Module"):
        sdk.load("net.onnx", prepare=[drop_relu])


def test_command_line_for_a_linux_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ai_edge_litert", reason='needs LiteRT (pip install "embarq[litert]")')
    torch.export.save(torch.export.export(net(), (torch.from_numpy(X[:1]),)), tmp_path / "net.pt2")
    np.savez(tmp_path / "test.npz", x=X, y=labels())
    args = ["rpi-4b", str(tmp_path / "net.pt2"), "--backend", "litert", "--threads", "1", "-e", str(tmp_path / "test.npz")]
    assert cli.main(["plan", *args]) == 0
    assert "litert/float32/1t" in capsys.readouterr().out
    assert cli.main(["compile", *args, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "<- chosen" in said and "--to local" in said
    assert cli.main(["flash", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "local"
    assert cli.main(["plan", *args[:-1], str(tmp_path / "absent.npz")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.long
def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "linux.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/linux.md", "exec"), {})
    assert "on rpi-4b: fits" in capsys.readouterr().out and (tmp_path / "out" / "manifest.json").is_file()
