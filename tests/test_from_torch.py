"""The importer of torch modules against torch itself: every op it knows, every form it must not guess at, whole nets, and every mistake."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.errors import EmbarqError, ModelError, UnsupportedOp, UsageError
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.passes.pipeline import prepare

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import sdk  # noqa: E402
from sdk.graph.from_torch import export_program, from_torch  # noqa: E402
from sdk.graph.torch_import import layers, math, moves  # noqa: E402
from sdk.graph.torch_import.walk import op_name  # noqa: E402
from tests.torch_cases import CASES, OPAQUE, Of  # noqa: E402
from tests.torch_nets import FAMILIES, SqueezeExcite, conv_bn, outputs_of  # noqa: E402

HANDLERS = {**moves.HANDLERS, **math.HANDLERS, **layers.HANDLERS}


def normal(*shapes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Normal float32 arrays of the shapes."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)


@cache
def case(name: str) -> tuple[nn.Module, tuple[np.ndarray, ...], Any]:
    """`(module, inputs, exported program)` of one case."""
    build, shapes = CASES[name]
    torch.manual_seed(0)
    net, inputs = build().eval(), normal(*shapes)
    return net, inputs, export_program(net, inputs)


def agree(graph: Graph, inputs: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...], atol: float = 1e-5) -> None:
    """The graph is sound and computes `wanted`, in its shapes and types."""
    verify(graph)
    found = run(graph, inputs)
    assert len(graph.outputs) == len(wanted) == len(found)
    for name, value in zip(graph.outputs, wanted, strict=True):
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, atol=atol, rtol=1e-5)


# ---- ops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_an_op_computes_what_torch_does(name: str) -> None:
    net, inputs, program = case(name)
    graph = from_torch(program)
    assert not [n.attrs["kind"] for n in graph.nodes if n.op == "opaque"]
    wanted = outputs_of(net, *inputs)
    agree(graph, inputs, wanted)
    agree(prepare(graph), inputs, wanted)


def test_every_op_the_importer_knows_has_a_case() -> None:
    reached = {op_name(node) for name in CASES for node in case(name)[2].graph.nodes if node.op == "call_function"}
    assert not sorted(set(HANDLERS) - reached)


@pytest.mark.parametrize("name", OPAQUE)
def test_what_the_graph_cannot_say_is_opaque_and_never_something_else(name: str) -> None:
    function, shapes, kind = OPAQUE[name]
    graph = from_torch(Of(function), normal(*shapes))
    verify(graph)
    assert kind in [n.attrs["kind"] for n in graph.nodes if n.op == "opaque"]


def test_an_opaque_op_is_refused_by_name_and_source_line() -> None:
    class Net(nn.Module):
        def forward(self, x: Any) -> Any:
            y = x.relu()
            return torch.erfinv(y.tanh()) * 2

    graph = from_torch(Net(), *normal((1, 4)))
    assert [n.op for n in graph.nodes] == ["relu", "tanh", "opaque", "mul"]
    with pytest.raises(UnsupportedOp, match=r"test_from_torch\.py:\d+: return torch\.erfinv\(y\.tanh\(\)\) \* 2 is aten::erfinv"):
        sdk.plan("stm32f746", sdk.load(Net(), torch.zeros(1, 4)))


# ---- nets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_nets_compute_what_torch_does(family: str) -> None:
    made = FAMILIES[family]
    net, x = made.net(), made.samples(1)
    graph = from_torch(net, x)
    wanted = outputs_of(net, x)
    agree(graph, (x,), wanted)
    agree(prepare(graph), (x,), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_samples_at_once_are_the_same_as_one_by_one(family: str) -> None:
    """Also where attention moves the batch from its place."""
    made = FAMILIES[family]
    graph, x = prepare(from_torch(made.net(), made.samples(1))), made.samples(3)
    together = run(graph, [x], keep=True)
    for index in range(3):
        alone = run(graph, [x[index : index + 1]], keep=True)
        for tensor in graph.activations():
            part = together[tensor.name].reshape(3, *tensor.shape)[index]
            np.testing.assert_allclose(part, alone[tensor.name], atol=1e-5, err_msg=tensor.name)


def test_channel_last_inputs_save_the_transposes() -> None:
    made = FAMILIES["mobilenet_v2"]
    net, x = made.net(), made.samples(1)
    graph = prepare(from_torch(net, x, input_layout="nhwc"))
    assert graph[graph.inputs[0]].shape == (1, 32, 32, 3)
    assert not [n.name for n in graph.nodes if n.op == "transpose"]
    agree(graph, (x.transpose(0, 2, 3, 1).copy(),), outputs_of(net, x))


def test_only_inputs_of_four_dimensions_have_a_layout() -> None:
    graph = from_torch(Of(lambda x, y: (x.sum(), y * 2)), normal((1, 3, 4, 5), (1, 6)), input_layout="nhwc")
    assert [graph[n].shape for n in graph.inputs] == [(1, 4, 5, 3), (1, 6)]
    with pytest.raises(UsageError, match="input_layout is 'NCHW'; it must be None or 'nhwc'"):
        from_torch(nn.ReLU(), torch.zeros(1), input_layout="NCHW")


# ---- inputs, outputs, names ----------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """A picture and two numbers in, a tensor and a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side = conv_bn(3, 4, 3, 1, act=nn.ReLU()), nn.Linear(2, 4)

    def forward(self, image: Any, numbers: Any) -> Any:
        return self.conv(image).mean((2, 3)) + self.side(numbers), {"numbers": numbers, "twice": numbers * 2}


def test_inputs_as_a_tuple_a_dict_and_in_any_order() -> None:
    net, (image, numbers) = TwoInputs().eval(), normal((1, 3, 6, 6), (1, 2))
    with torch.no_grad():
        first, others = net(torch.from_numpy(image), torch.from_numpy(numbers))
    wanted = (first.numpy(), others["numbers"].numpy(), others["twice"].numpy())
    for example in ((image, torch.from_numpy(numbers)), [image, numbers], {"image": image, "numbers": numbers}, {"numbers": numbers, "image": image}):
        graph = prepare(from_torch(net, example))
        assert sorted(graph.inputs) == ["image", "numbers"]
        found = run(graph, {"image": image, "numbers": numbers})
        for name, value in zip(graph.outputs, wanted, strict=True):
            np.testing.assert_allclose(found[name], value, atol=1e-5)
        assert graph.outputs == ("output_0", "output_1", "output_2")


def test_float64_examples_stand_for_float32() -> None:
    graph = from_torch(nn.Linear(4, 2), np.zeros((1, 4)))
    assert graph[graph.inputs[0]].dtype == "float32"


def test_every_output_is_a_tensor_of_its_own() -> None:
    """An input handed through, a constant, and one value returned twice."""

    def forward(x: Any) -> Any:
        y = x.relu()
        return x, y, y, torch.ones(2)

    (x,) = normal((1, 4))
    graph = from_torch(Of(forward), x)
    assert len(set(graph.outputs)) == 4 and not set(graph.outputs) & set(graph.inputs)
    for made in (graph, prepare(graph)):
        agree(made, (x,), (x, np.maximum(x, 0), np.maximum(x, 0), np.ones(2, np.float32)))


def test_weights_keep_their_names() -> None:
    net = nn.Sequential(conv_bn(3, 8, act=nn.ReLU()), SqueezeExcite(8), nn.Flatten(), nn.Linear(8 * 16, 3)).eval()
    graph = from_torch(net, torch.zeros(1, 3, 4, 4))
    state = {k for k in net.state_dict() if "num_batches" not in k}
    assert {t.origin for t in graph.constants() if t.origin} == state
    kept = {t.origin for t in prepare(graph).constants() if t.origin}
    assert {"0.0.weight", "1.reduce.weight", "1.reduce.bias", "3.weight", "3.bias"} <= kept <= state
    assert {"0.0", "0.1", "1.reduce", "3"} <= {n.name for n in graph.nodes}


def test_weights_that_a_matrix_product_turns_keep_their_name_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Any) -> Any:
            return x @ self.table.t() + torch.matmul(x, self.table.transpose(0, 1))

    (x,) = normal((2, 5))
    net = Net()
    graph = from_torch(net, x)
    assert [t.origin for t in graph.constants()] == ["table"]
    agree(graph, (x,), outputs_of(net, x))


def test_layers_used_twice_have_names_of_their_own() -> None:
    layer = nn.Linear(4, 4)
    graph = from_torch(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4))
    assert len({n.name for n in graph.nodes}) == len(graph.nodes) == 3
    assert {t.shape for t in graph.constants()} == {(4, 4), (4,)} and len(list(graph.constants())) == 2


def test_weights_that_two_layers_share_take_their_flash_once() -> None:
    """In int8 too: what equalisation does to one layer's weights would make two of them."""
    shared, (x,) = nn.Linear(64, 64), normal((8, 64))
    nets = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.ReLU(), shared)
    once, twice = (sdk.plan("rp2040", sdk.load(net, x[:1]), calibration=x).flash_bytes for net in nets)
    assert twice - once < 64 * 64


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_pt2_file_is_the_same_model(tmp_path: Path) -> None:
    made = FAMILIES["keywords"]
    net, x = made.net(), made.samples(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (torch.from_numpy(x),)), tmp_path / "spot.pt2")
    model = sdk.load(tmp_path / "spot.pt2")
    assert (model.name, model.kind) == ("spot", "torch")
    assert from_torch(tmp_path / "spot.pt2").name == "spot"
    agree(model.graph, (x,), outputs_of(net, x))


def test_a_program_exported_in_training_mode_is_not_mistaken_for_inference() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    program = torch.export.export(net, (torch.zeros(2, 4),))
    assert [n.attrs["kind"] for n in from_torch(program).nodes if n.op == "opaque"] == ["aten::dropout"]
    with pytest.raises(ModelError, match="changes its buffer"):
        from_torch(torch.export.export(nn.BatchNorm1d(4).train(), (torch.zeros(2, 4),)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.pt2 is not a program that torch\.export\.save wrote"):
        from_torch(tmp_path / "m.pt2")
    with pytest.raises(UsageError, match="there is no such file"):
        from_torch(tmp_path / "absent.pt2")


# ---- mistakes ------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Which way it goes depends on the data."""

    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x


class Counts(nn.Module):
    """Changes a buffer in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))

    def forward(self, x: Any) -> Any:
        self.total += x
        return self.total * 2


def _with(net: nn.Module, name: str, value: float) -> nn.Module:
    with torch.no_grad():
        net.get_parameter(name)[0] = value
    return net


def _dynamic(axis: int) -> Any:
    return torch.export.export(nn.ReLU(), (torch.zeros(3, 4),), dynamic_shapes={"input": {axis: torch.export.Dim("n")}})


def test_a_free_batch_is_read_as_a_batch_of_1() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).eval()
    free = torch.export.export(net, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=({0: torch.export.Dim("n")},))
    graph, fixed = from_torch(free), from_torch(net, torch.zeros(1, 1, 4, 4))
    assert [graph[n].shape for n in graph.inputs] == [(1, 1, 4, 4)] and len(graph.nodes) == len(fixed.nodes)
    assert {t.origin for t in graph.constants()} == {t.origin for t in fixed.constants()}


WRONG: dict[str, tuple[Any, Any, type[EmbarqError], str]] = {
    "no example": (lambda: nn.Linear(4, 2), None, UsageError, r"without an example; pass example=, .*torch\.zeros\(1, 3, 32, 32\)"),
    "wrong shape": (lambda: nn.Linear(4, 2), np.zeros((1, 5), np.float32), UsageError, r"Linear cannot run on the example float32\[1, 5\] .*give inputs"),
    "wrong number": (lambda: nn.Linear(4, 2), normal((1, 4), (1, 4)), UsageError, r"Linear cannot run on the example float32\[1, 4\], float32\[1, 4\]"),
    "wrong name": (lambda: nn.Linear(4, 2), {"x": np.zeros((1, 4), np.float32)}, UsageError, "Linear cannot run on the example"),
    "wrong kind": (lambda: nn.Linear(4, 2), "image.png", UsageError, "the example holds a str; give tensors or numpy arrays"),
    "no module": (lambda: 3, np.zeros(1), UsageError, "cannot export a int; give an nn.Module"),
    "branches": (Branches, np.zeros((1, 4)), ModelError, r"torch\.export cannot trace Branches .*without branches or loops"),
    "state": (Counts, np.zeros((1, 4)), ModelError, "forward changes its buffer total, .*make it an input and an output"),
    "dynamic shapes": (
        lambda: _dynamic(1), None, ModelError, r"input input has shape \['3', 's\d+'\], which is not fixed; export it with dynamic_shapes for the batch alone"
    ),
    "NaN": (lambda: _with(nn.Linear(4, 2), "weight", np.nan), np.zeros((1, 4)), ModelError, "weights 'weight' hold NaN or infinity"),
    "infinity": (lambda: _with(nn.Conv2d(3, 2, 1), "bias", -np.inf), np.zeros((1, 3, 4, 4)), ModelError, "weights 'bias' hold NaN or infinity"),
    "half": (lambda: nn.Linear(4, 2).half(), torch.zeros(1, 4, dtype=torch.float16), ModelError, r"float16; call \.float\(\) on the module"),
    "no output": (lambda: Of(lambda x: None), np.zeros((1, 4)), ModelError, "returns no tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_mistake_is_told_in_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    build, example, kind, words = WRONG[name]
    with pytest.raises(kind, match=words) as caught:
        from_torch(build(), example)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # a library does not print, whatever torch does


def test_training_modes_are_put_back() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    net[2].eval()
    modes = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    graph = from_torch(net, torch.randn(2, 4))
    assert [n.op for n in graph.nodes] == ["dense", "batch_norm"]  # the dropout was off
    assert [m.training for m in net.modules()] == modes == [True, True, True, False]
    with pytest.raises(UsageError):
        from_torch(net, torch.randn(2, 5))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_in_half_precision_are_widened() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4).to(torch.bfloat16))

        def forward(self, x: Any) -> Any:
            return nn.functional.linear(x, self.weight.float())

    (x,) = normal((1, 4))
    net = Net()
    agree(from_torch(net, x), (x,), outputs_of(net, x))
