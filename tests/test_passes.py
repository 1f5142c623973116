"""The float passes: on random graphs the answer stays and a second time changes nothing; and each does what it is for, and only there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdk.graph import channel_first as cf
from sdk.graph.builder import Builder
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.text import to_text
from sdk.graph.verify import verify
from sdk.passes import permutations as pm
from sdk.passes.cancel_transposes import cancel_transposes
from sdk.passes.clean import merge_duplicates, remove_dead_nodes, remove_identities
from sdk.passes.fold_batch_norm import fold_batch_norm
from sdk.passes.fold_constants import fold_constants
from sdk.passes.fold_pad import fold_pad
from sdk.passes.fuse_activation import fuse_activation
from sdk.passes.pipeline import FLOAT, QUANTISED, Pass, prepare
from sdk.passes.softmax_last import softmax_last
from tests.small_models import int8_cnn
from tests.strategies import float_graphs, loose_graphs, seeds

PASSES = tuple(dict.fromkeys((*FLOAT, prepare)))
NONE = ((0, 0), (0, 0))
WINDOW = {"stride": (1, 1), "dilation": (1, 1), "padding": NONE, "activation": "none"}


# ---- laws ----------------------------------------------------------------------------------------------------------


def answer(graph: Graph) -> dict[str, np.ndarray]:
    """What the graph makes of one normal input."""
    rng = np.random.default_rng(7)
    return run(graph, {n: rng.standard_normal(graph[n].shape).astype(np.float32) for n in graph.inputs})


def snapshot(graph: Graph) -> tuple[str, dict[str, bytes]]:
    """Everything in a graph, as plain values."""
    return to_text(graph), {t.name: t.data.tobytes() for t in graph.tensors.values() if t.data is not None}


def close(graph: Graph, wanted: dict[str, np.ndarray]) -> None:
    """The graph is sound and gives `wanted` up to float32's rounding."""
    verify(graph)
    for name, value in answer(graph).items():
        assert value.shape == wanted[name].shape and value.dtype == wanted[name].dtype
        largest = float(np.abs(wanted[name]).max(initial=1))
        if value.dtype == np.float32:  # where two values are equal but for rounding, argmax may take the other
            np.testing.assert_allclose(value, wanted[name], atol=2e-4 * largest)


def same_nodes(a: Graph, b: Graph) -> bool:
    """The same nodes in the same order, reading and writing the same tensors."""
    return [(n.op, n.inputs, n.outputs, dict(n.attrs)) for n in a.nodes] == [(n.op, n.inputs, n.outputs, dict(n.attrs)) for n in b.nodes]


@pytest.mark.parametrize("one", PASSES, ids=lambda p: p.__name__)
@settings(max_examples=120)
@given(graph=loose_graphs())
def test_a_pass_keeps_the_answer_and_has_nothing_left_to_do(one: Pass, graph: Graph) -> None:
    before, wanted = snapshot(graph), answer(graph)
    assume(all(np.isfinite(v).all() and np.abs(v).max(initial=0) < 1e4 for v in wanted.values()))
    made = one(graph)
    assert snapshot(graph) == before
    assert (made.inputs, made.outputs, made.name) == (graph.inputs, graph.outputs, graph.name)
    close(made, wanted)
    assert same_nodes(one(made), made)


@settings(max_examples=60)
@given(float_graphs())
def test_the_pipeline_keeps_what_a_small_classifier_answers(graph: Graph) -> None:
    close(prepare(graph), answer(graph))


def copied_bytes(graph: Graph) -> int:
    """Bytes that transposes copy in one inference."""
    return sum(graph[n.inputs[0]].size_bytes for n in graph.nodes if n.op == "transpose" and not pm.is_free(graph[n.inputs[0]].shape, n.attrs["perm"]))


@settings(max_examples=120)
@given(loose_graphs())
def test_cancelling_transposes_never_copies_more(graph: Graph) -> None:
    graph = remove_dead_nodes(graph)
    assert copied_bytes(cancel_transposes(graph)) <= copied_bytes(graph)


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(shapes, seeds)
def test_permutations_are_a_group(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (tuple(int(v) for v in rng.permutation(len(shape))) for _ in range(2))
    x = rng.standard_normal(shape)
    assert pm.compose(p, pm.inverse(p)) == pm.compose(pm.inverse(p), p) == tuple(range(len(shape)))
    assert np.array_equal(x.transpose(p).transpose(q), x.transpose(pm.compose(p, q)))
    assert x.transpose(p).shape == pm.apply(p, shape)
    if pm.is_free(shape, p):
        assert np.array_equal(x.transpose(p).reshape(-1), x.reshape(-1))
    else:
        assert not np.array_equal(x.transpose(p).reshape(-1), x.reshape(-1))


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many values: dimensions joined, split, ones put in and taken out."""
    factors = draw(st.lists(st.sampled_from((1, 2, 3)), min_size=1, max_size=5))

    def grouped() -> tuple[int, ...]:
        shape = [1]
        for f in factors:
            if draw(st.booleans()):
                shape.append(f)
            else:
                shape[-1] *= f
        return tuple(shape if draw(st.booleans()) else shape[1:] or shape)

    a, b = grouped(), grouped()
    assume(np.prod(a) == np.prod(b))
    return a, b


@settings(max_examples=150)
@given(reshapes(), seeds)
def test_transposes_pass_reshapes_only_where_it_is_the_same(pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    before, after = pair
    rng = np.random.default_rng(seed)
    down = tuple(int(v) for v in rng.permutation(len(before)))
    found = pm.through_reshape(before, after, down)
    if found is not None:
        x = rng.standard_normal(pm.apply(pm.inverse(down), before))
        assert np.array_equal(x.transpose(down).reshape(after), x.reshape(found[0]).transpose(found[1]))
    up = tuple(int(v) for v in rng.permutation(len(after)))
    raised = pm.through_reshape_up(before, after, up)
    if raised is not None:
        x = rng.standard_normal(before)
        assert np.array_equal(x.reshape(after).transpose(up), x.transpose(raised[0]).reshape(raised[1]))


# ---- what each is for ----------------------------------------------------------------------------------------------


class Net:
    """A builder with an input [1, 6, 6, 3] and seeded constants."""

    def __init__(self, shape: tuple[int, ...] = (1, 6, 6, 3)) -> None:
        self.rng, self.b = np.random.default_rng(3), Builder("net")
        self.x = self.b.input("x", shape, "float32")

    def const(self, *shape: int) -> str:
        """Values between 0.5 and 1.5."""
        return self.b.const("c", self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def op(self, op: str, *inputs: str, **attrs: Any) -> str:
        """One node; the activation is none where the op has one and none is given."""
        wanted = {"activation": "none"} if op in ("add", "sub", "mul", "div", "dense", "concat", "maximum") else {}
        return self.b.op(op, *inputs, **{**wanted, **attrs})

    def layer(self, op: str, x: str, out: int = 4, bias: bool = True, **attrs: Any) -> str:
        """conv2d 3x3, depthwise_conv2d 3x3 or dense."""
        c = self.b.shape(x)[-1]
        if op == "dense":
            return self.op("dense", x, self.const(out, c), self.const(out) if bias else "", **attrs)
        if op == "depthwise_conv2d":
            return self.op(op, x, self.const(1, 3, 3, 2 * c), self.const(2 * c) if bias else "", multiplier=2, **{**WINDOW, **attrs})
        return self.op(op, x, self.const(out, 3, 3, c), self.const(out) if bias else "", groups=1, **{**WINDOW, **attrs})

    def norm(self, x: str) -> str:
        """batch_norm over the last dimension."""
        return self.op("batch_norm", x, *(self.const(self.b.shape(x)[-1]) for _ in range(4)), eps=1e-3)

    def ops(self, one: Pass, *outputs: str) -> list[str]:
        """The ops that are left after a pass that keeps the answer."""
        graph = self.b.graph(outputs)
        made = one(graph)
        close(made, answer(graph))
        return [n.op for n in made.nodes]


LAYERS = ("conv2d", "depthwise_conv2d", "dense")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", LAYERS)
def test_batch_norms_vanish_behind_layers(op: str, bias: bool) -> None:
    net = Net()
    y = net.norm(net.layer(op, net.x, bias=bias))
    y = net.op("relu", net.norm(net.layer(op, y)))
    assert net.ops(fold_batch_norm, y) == [op, op, "relu"]


@pytest.mark.parametrize("op", LAYERS)
def test_factors_and_offsets_per_channel_vanish_too(op: str) -> None:
    net = Net()
    y = net.layer(op, net.x)
    c = net.b.shape(y)[-1]
    y = net.op("div", net.op("mul", net.const(c), y), net.const(1, c))
    y = net.op("sub", net.const(), net.op("add", y, net.const(1, 1, 1, c), activation="none"))
    y = net.op("add", net.op("sub", y, net.const(c)), net.const(), activation="relu")
    y = net.op("mul", y, net.const(c))  # behind an activation nothing is linear
    assert net.ops(fold_batch_norm, y) == [op, "mul"]


def test_a_layers_activation_stands_in_the_way_and_its_last_one_is_kept() -> None:
    net = Net()
    y = net.norm(net.layer("conv2d", net.x, activation="relu"))
    assert net.ops(fold_batch_norm, y) == ["conv2d", "mul", "add"]


def two_readers(net: Net, y: str, z: str) -> tuple[str, ...]:
    """`y` is read by something else than the node that writes `z`."""
    return z, net.op("tanh", y)


def returned(net: Net, y: str, z: str) -> tuple[str, ...]:
    """`y` is what the model returns."""
    return z, y


@pytest.mark.parametrize("seen", [two_readers, returned])
def test_what_others_see_is_not_folded_into(seen: Callable[[Net, str, str], tuple[str, ...]]) -> None:
    """A batch norm, a factor, an activation: the layer's own result is wanted too."""
    for make, one, left in (
        (lambda n, y: n.norm(y), fold_batch_norm, ["conv2d", "mul", "add"]),
        (lambda n, y: n.op("mul", y, n.const(4)), fold_batch_norm, ["conv2d", "mul"]),
        (lambda n, y: n.op("relu", y), fuse_activation, ["conv2d", "relu"]),
    ):
        net = Net()
        y = net.layer("conv2d", net.x)
        outputs = seen(net, y, make(net, y))
        assert [op for op in net.ops(one, *outputs) if op != "tanh"] == left


def test_what_is_not_one_number_per_channel_stays() -> None:
    for shape in ((6, 1), (4, 4, 1), (1, 4, 4, 4), (2, 1, 1, 4)):
        net = Net()
        y = net.layer("conv2d", net.x)  # [1, 4, 4, 4]
        y = net.op("mul", y, net.const(*shape)) if shape != (6, 1) else net.op("mul", net.op("slice", y, begin=(0, 0, 0, 0), end=(1, 4, 4, 1)), net.const(4))
        assert "mul" in net.ops(fold_batch_norm, y)


def test_a_result_that_broadcasting_widens_is_no_layer_any_more() -> None:
    net = Net()
    assert net.ops(fold_batch_norm, net.op("mul", net.layer("conv2d", net.x, out=1), net.const(4))) == ["conv2d", "mul"]
    net = Net((1, 3))
    assert net.ops(fold_batch_norm, net.op("add", net.layer("dense", net.x), net.const(1, 1, 4))) == ["dense", "add"]


def test_division_by_zero_and_infinite_weights_are_left_alone() -> None:
    net = Net((1, 3))
    zero = net.b.const("z", np.array([1, 0, 1, 1], np.float32))
    graph = net.b.graph([net.op("div", net.layer("dense", net.x), zero)])
    assert [n.op for n in fold_batch_norm(graph).nodes] == ["dense", "div"]
    net = Net((1, 3))
    huge = net.b.const("h", np.full(4, 1e38, np.float32))
    graph = net.b.graph([net.op("mul", net.op("mul", net.layer("dense", net.x), huge), huge)])
    assert [n.op for n in fold_batch_norm(graph).nodes].count("mul") == 1


def test_weights_computed_at_run_time_stay_what_they_are() -> None:
    net = Net((4, 4))
    y = net.op("dense", net.x, net.x, "")
    assert net.ops(fold_batch_norm, net.norm(y)) == ["dense", "mul", "add"]


def test_a_shared_weight_is_folded_for_one_layer_only() -> None:
    net = Net((1, 4))
    weight = net.const(4, 4)
    y = net.op("dense", net.norm(net.op("dense", net.x, weight, "")), weight, "")
    graph = net.b.graph([y])
    made = fold_batch_norm(graph)
    close(made, answer(graph))
    assert [n.op for n in made.nodes] == ["dense", "dense"] and made.nodes[0].inputs[1] != made.nodes[1].inputs[1] == weight


def test_layers_on_signals_take_their_batch_norm_through_the_reshape() -> None:
    net = Net((1, 3, 9))
    y = cf.conv(net.b, net.x, np.ones((4, 3, 3), np.float32), None, stride=(1, 1), dilation=(1, 1), padding=((0, 0), (1, 1)), groups=1)
    y = cf.batch_norm(net.b, y, [net.const(4) for _ in range(4)], 1e-3)
    y = cf.conv(net.b, net.op("relu", y), np.ones((4, 1, 3), np.float32), None, stride=(1, 1), dilation=(1, 1), padding=NONE, groups=4)
    y = cf.batch_norm(net.b, y, [net.const(4) for _ in range(4)], 1e-3)
    left = Counter(net.ops(prepare, y))
    assert left["conv2d"] == left["depthwise_conv2d"] == 1 and not {"batch_norm", "mul", "add", "relu"} & set(left)
    assert left["transpose"] <= 2


def test_a_reshape_that_moves_channels_stands_in_the_way() -> None:
    net = Net()
    y = net.op("reshape", net.layer("conv2d", net.x), shape=(1, 64))
    assert net.ops(fold_batch_norm, net.op("mul", y, net.const(64))) == ["conv2d", "reshape", "mul"]


# ---- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [*LAYERS, "add", "max_pool2d", "concat"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "relu_n1_to_1"])
def test_activations_go_into_the_layer_before(op: str, activation: str) -> None:
    net = Net()
    match op:
        case "add":
            y = net.op("add", net.x, net.const(3))
        case "max_pool2d":
            y = net.op(op, net.x, kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none")
        case "concat":
            y = net.op("concat", net.x, net.x, axis=3)
        case _:
            y = net.layer(op, net.x)
    graph = net.b.graph([net.op(activation, y)])
    made = fuse_activation(graph)
    close(made, answer(graph))
    assert [(n.op, n.attrs["activation"]) for n in made.nodes] == [(op, activation)]


def test_clips_that_mean_an_activation_are_one() -> None:
    for build in (
        lambda n, y: n.op("clip", y, min=0.0, max=6.0),
        lambda n, y: n.op("clip", y, min=-1.0, max=1.0),
        lambda n, y: n.op("maximum", y, n.b.const("zero", np.float32(0))),
    ):
        net = Net()
        assert net.ops(fuse_activation, build(net, net.layer("conv2d", net.x))) == ["conv2d"]
    net = Net()
    assert net.ops(fuse_activation, net.op("clip", net.layer("conv2d", net.x), min=0.0, max=1.0)) == ["conv2d", "clip"]


def test_an_activation_reaches_its_layer_through_what_only_moves_values() -> None:
    net = Net()
    y = net.op("transpose", net.layer("conv2d", net.x), perm=(0, 3, 1, 2))
    assert net.ops(fuse_activation, net.op("relu", net.op("reshape", y, shape=(1, 64)))) == ["conv2d", "transpose", "reshape"]


@pytest.mark.parametrize(("first", "second", "left"), [("relu6", "relu", 1), ("relu", "relu", 1), ("relu", "relu6", 2), ("relu_n1_to_1", "relu", 2)])
def test_a_second_activation_goes_only_where_the_first_implies_it(first: str, second: str, left: int) -> None:
    net = Net()
    assert len(net.ops(fuse_activation, net.op(second, net.op(first, net.layer("conv2d", net.x))))) == left


def test_integers_without_a_scale_have_no_activation() -> None:
    net = Net((1, 4))
    y = net.op("cast", net.op("mul", net.x, net.const(4)), dtype="int32")
    total = net.op("cast", net.op("add", y, net.b.const("i", np.int32(2))), dtype="float32")
    assert net.ops(fuse_activation, net.op("relu", total)) == ["mul", "cast", "add", "cast", "relu"]


def test_readers_that_nobody_reads_do_not_count() -> None:
    net = Net()
    y = net.layer("conv2d", net.x)
    net.op("tanh", y)  # leads nowhere
    assert net.ops(fuse_activation, net.op("relu", y)) == ["conv2d"]


# ---- pads ----------------------------------------------------------------------------------------------------------

SIDES = ((0, 0), (1, 0), (2, 1), (0, 0))


def padded(net: Net, paddings: Any = SIDES, value: float = 0.0) -> str:
    """The input with a border."""
    return net.op("pad", net.x, paddings=paddings, value=value)


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "avg_pool2d"])
def test_pads_go_into_what_reads_them(op: str) -> None:
    net = Net()
    pool = {"kernel": (3, 3), "stride": (1, 1), "padding": NONE, "activation": "none", "count_include_pad": False}
    y = net.op(op, padded(net), **pool) if op == "avg_pool2d" else net.layer(op, padded(net), padding=((0, 1), (0, 0)))
    graph = net.b.graph([y])
    made = fold_pad(graph)
    close(made, answer(graph))
    assert [n.op for n in made.nodes] == [op]
    assert made.nodes[0].attrs["padding"] == (((1, 0), (2, 1)) if op == "avg_pool2d" else ((1, 1), (2, 1)))


def test_a_pad_with_two_layers_is_folded_into_both_and_with_another_reader_stays_for_it() -> None:
    net = Net()
    wide = padded(net)
    assert net.ops(fold_pad, net.layer("conv2d", wide), net.layer("conv2d", wide)) == ["conv2d", "conv2d"]
    net = Net()
    wide = padded(net)
    assert sorted(net.ops(fold_pad, net.layer("conv2d", wide), net.op("tanh", wide))) == ["conv2d", "pad", "tanh"]
    net = Net()
    wide = padded(net)
    assert sorted(net.ops(fold_pad, net.layer("conv2d", wide), wide)) == ["conv2d", "pad"]


def test_pads_that_a_layer_cannot_make_stay() -> None:
    for paddings, value in (((0, 0), (1, 1), (1, 1), (0, 1)), 0.0), (((1, 0), (1, 1), (1, 1), (0, 0)), 0.0), (SIDES, 1.0), (SIDES, -0.5):
        net = Net()
        assert net.ops(fold_pad, net.layer("conv2d", padded(net, paddings, value))) == ["pad", "conv2d"]


def test_pools_take_a_pad_only_where_they_count_it() -> None:
    pool = {"kernel": (3, 3), "stride": (1, 1), "activation": "none"}
    for op, more in (
        ("max_pool2d", {"padding": NONE}),
        ("avg_pool2d", {"padding": ((1, 0), (0, 0)), "count_include_pad": False}),
        ("avg_pool2d", {"padding": ((2, 0), (0, 0)), "count_include_pad": True}),  # would be as wide as the window
    ):
        net = Net()
        assert net.ops(fold_pad, net.op(op, padded(net), **pool, **more)) == ["pad", op]


# ---- constants, duplicates, identities -----------------------------------------------------------------------------


def test_what_is_known_is_computed_once() -> None:
    net = Net((1, 4))
    table = net.op("transpose", net.op("mul", net.const(4, 5), net.const(4, 1)), perm=(1, 0))
    assert net.ops(fold_constants, net.op("dense", net.x, table, "")) == ["dense"]


def test_constants_that_would_grow_are_left_to_the_device() -> None:
    net = Net((1, 4))
    wide = net.op("tile", net.const(1, 4), multiples=(20000, 1))
    assert net.ops(fold_constants, net.op("mul", net.x, wide)) == ["tile", "mul"]


def test_a_known_output_is_still_an_output() -> None:
    net = Net((1, 4))
    graph = net.b.graph([net.op("relu", net.x), net.op("tanh", net.const(3))])
    made = fold_constants(graph)
    close(made, answer(graph))
    assert [n.op for n in made.nodes] == ["relu", "reshape"] and same_nodes(fold_constants(made), made)


def test_parameters_keep_their_origin_when_they_are_only_moved() -> None:
    net = Net((1, 4))
    weight = net.b.const("w", np.ones((4, 5), np.float32), origin="head.weight")
    made = fold_constants(net.b.graph([net.op("dense", net.x, net.op("transpose", weight, perm=(1, 0)), "")]))
    assert [t.origin for t in made.constants()] == ["head.weight"]


def test_the_same_is_computed_once_and_outputs_stay_two() -> None:
    net = Net()
    a, c = (net.op("tanh", net.op("transpose", net.x, perm=(0, 3, 1, 2))) for _ in range(2))
    assert net.ops(merge_duplicates, net.op("add", a, c)) == ["transpose", "tanh", "add"]
    net = Net()
    a, c = (net.op("tanh", net.x) for _ in range(2))
    assert net.ops(merge_duplicates, a, c) == ["tanh", "tanh"]


def test_nodes_that_nobody_reads_go() -> None:
    net = Net()
    net.op("tanh", net.op("relu", net.x))
    assert net.ops(remove_dead_nodes, net.op("abs", net.x)) == ["abs"]


IDENTITIES: dict[str, Callable[[Net, str], str]] = {
    "reshape": lambda n, y: n.op("reshape", y, shape=(1, 6, 6, 3)),
    "there and back": lambda n, y: n.op("reshape", n.op("reshape", y, shape=(1, 108)), shape=(1, 6, 6, 3)),
    "cast": lambda n, y: n.op("cast", y, dtype="float32"),
    "slice": lambda n, y: n.op("slice", y, begin=(0,) * 4, end=(1, 6, 6, 3), strides=(1,) * 4),
    "transpose": lambda n, y: n.op("transpose", y, perm=(0, 1, 2, 3)),
    "concat": lambda n, y: n.op("concat", y, axis=1),
    "pad": lambda n, y: n.op("pad", y, paddings=((0, 0),) * 4, value=3.0),
    "tile": lambda n, y: n.op("tile", y, multiples=(1,) * 4),
    "mean of one": lambda n, y: n.op("mean", y, axes=(0,), keep_dims=True),
    "pool of one": lambda n, y: n.op("max_pool2d", y, kernel=(1, 1), stride=(1, 1), padding=NONE, activation="none"),
    "plus zero": lambda n, y: n.op("add", n.b.const("zero", np.zeros((1, 3), np.float32)), y),
    "minus zero": lambda n, y: n.op("sub", y, n.b.const("zero", np.float32(0))),
    "times one": lambda n, y: n.op("mul", y, n.b.const("one", np.ones(3, np.float32))),
    "by one": lambda n, y: n.op("div", y, n.b.const("one", np.float32(1))),
    "resize": lambda n, y: n.op("resize_nearest", y, size=(6, 6), align_corners=False, half_pixel_centers=False),
}
CHANGES: dict[str, Callable[[Net, str], str]] = {
    "backwards": lambda n, y: n.op("slice", y, begin=(0, 5, 0, 0), end=(1, -1, 6, 3), strides=(1, -1, 1, 1)),
    "turned": lambda n, y: n.op("transpose", y, perm=(0, 2, 1, 3)),
    "zero minus": lambda n, y: n.op("sub", n.b.const("zero", np.float32(0)), y),
    "one by": lambda n, y: n.op("div", n.b.const("one", np.float32(1)), y),
    "activation": lambda n, y: n.op("add", y, n.b.const("zero", np.float32(0)), activation="relu"),
    "widened": lambda n, y: n.op("add", n.op("slice", y, begin=(0,) * 4, end=(1, 6, 6, 1)), n.b.const("zero", np.zeros(3, np.float32))),
    "one of every two": lambda n, y: n.op("max_pool2d", y, kernel=(1, 1), stride=(2, 2), padding=NONE, activation="none"),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_what_changes_nothing_goes(name: str) -> None:
    net = Net()
    assert net.ops(remove_identities, net.op("tanh", IDENTITIES[name](net, net.op("exp", net.x)))) == ["exp", "tanh"]
    net = Net()
    assert net.ops(remove_identities, IDENTITIES[name](net, net.x)) != []  # an output is a tensor of its own


@pytest.mark.parametrize("name", CHANGES)
def test_what_only_looks_like_it_stays(name: str) -> None:
    net = Net()
    graph = net.b.graph([net.op("tanh", CHANGES[name](net, net.op("exp", net.x)))])
    assert len(remove_identities(graph).nodes) == len(graph.nodes)


# ---- transposes ----------------------------------------------------------------------------------------------------


def channel_first_net() -> Graph:
    """Inverted residuals as an importer of channel-first models writes them: transposes around every layer and batch norm."""
    net = Net((1, 3, 8, 8))

    def layer(x: str, out: int, kernel: int, groups: int = 1, activation: str | None = "relu6") -> str:
        weight = net.rng.standard_normal((out, net.b.shape(x)[1] // groups, kernel, kernel)).astype(np.float32) / 3
        edge = (kernel // 2, kernel // 2)
        y = cf.conv(net.b, x, weight, None, stride=(1, 1), dilation=(1, 1), padding=(edge, edge), groups=groups)
        y = cf.batch_norm(net.b, y, [net.const(out) for _ in range(4)], 1e-3)
        return net.op(activation, y) if activation else y

    y = layer(net.x, 4, 3)
    for _ in range(2):
        y = net.op("add", y, layer(layer(layer(y, 12, 1), 12, 3, 12), 4, 1, activation=None))
    excite = net.op("hard_sigmoid", layer(net.op("mean", y, axes=(2, 3), keep_dims=True), 4, 1, activation=None))
    y = net.op("concat", net.op("mul", y, excite), layer(y, 4, 3), axis=1)
    y = cf.resize(net.b, cf.pool(net.b, y, "max_pool2d", kernel=(2, 2), stride=(2, 2), padding=NONE), "resize_nearest", (8, 8))
    y = net.op("mean", y, axes=(2, 3), keep_dims=False)
    return net.b.graph([net.layer("dense", y)])


def test_a_channel_first_net_keeps_the_one_transpose_at_its_input() -> None:
    graph = channel_first_net()
    made = prepare(graph)
    close(made, answer(graph))
    left = Counter(n.op for n in made.nodes)
    assert left["transpose"] == 1 and made.nodes[0].op == "transpose"
    assert not {"batch_norm", "relu6", "pad"} & set(left)
    assert left["conv2d"] + left["depthwise_conv2d"] == 9
    assert Counter(n.op for n in graph.nodes)["transpose"] > 30


def test_softmax_over_channels_and_what_it_joins_stand_channel_last() -> None:
    net = Net((1, 3, 4, 4))
    y = cf.conv(net.b, net.x, np.ones((5, 3, 1, 1), np.float32), None, stride=(1, 1), dilation=(1, 1), padding=NONE, groups=1)
    y = net.op("softmax", y, axis=1, beta=1.0)
    made = cancel_transposes(net.b.graph([cf.conv(net.b, y, np.ones((2, 5, 1, 1), np.float32), None, stride=(1, 1), dilation=(1, 1), padding=NONE, groups=1)]))
    assert [n.op for n in made.nodes] == ["transpose", "conv2d", "softmax", "conv2d", "transpose"]
    assert made.nodes[2].attrs["axis"] == 3


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -2, 3, -1])
def test_a_softmax_over_any_dimension_is_computed_along_the_last(op: str, axis: int) -> None:
    net = Net((1, 3, 4, 5))
    graph = net.b.graph([net.op("relu", net.op(op, net.x, axis=axis))])
    made = prepare(graph)
    close(made, answer(graph))
    (node,) = (n for n in made.nodes if n.op == op)
    assert node.attrs["axis"] in (-1, 3) and node.name == op
    assert same_nodes(prepare(made), made)
    if axis in (3, -1):
        assert same_nodes(softmax_last(graph), graph)


def test_a_flatten_turns_the_weights_instead_of_the_picture() -> None:
    net = Net()
    y = net.op("reshape", net.op("transpose", net.x, perm=(0, 3, 1, 2)), shape=(1, 108))
    assert net.ops(cancel_transposes, net.layer("dense", y)) == ["reshape", "dense"]


def test_a_matrix_product_reads_its_operands_as_they_are() -> None:
    net = Net((1, 4, 5))
    turned = net.op("transpose", net.x, perm=(0, 2, 1))
    assert net.ops(cancel_transposes, net.op("batch_matmul", turned, net.op("transpose", turned, perm=(0, 2, 1)))) == ["batch_matmul"]


def test_a_transpose_that_the_meaning_asks_for_stays() -> None:
    net = Net()
    y = net.op("reshape", net.op("transpose", net.x, perm=(0, 2, 1, 3)), shape=(1, 6, 18))
    assert net.ops(cancel_transposes, net.op("softmax", y, axis=2, beta=1.0)).count("transpose") == 1


# ---- the pipeline --------------------------------------------------------------------------------------------------


def test_integer_graphs_take_no_pass_that_rounds() -> None:
    assert fold_batch_norm in FLOAT and fold_batch_norm not in QUANTISED
    graph = int8_cnn()
    made = prepare(graph)
    x = np.random.default_rng(0).integers(-128, 128, (4, *graph[graph.inputs[0]].shape[1:])).astype(np.int8)
    assert np.array_equal(run(graph, [x])[graph.outputs[0]], run(made, [x])[made.outputs[0]])
    weights = {t.data.tobytes() for t in graph.constants() if t.data is not None}
    assert {t.data.tobytes() for t in made.constants() if t.data is not None} <= weights


TRANSPOSES = {"mobilenet_v1": 1, "mobilenet_v2": 1, "mobilenet_v3": 1, "resnet": 1, "mcunet": 1, "keywords": 1, "unet": 2, "unet_transposed": 2,
              "encoder_sdpa": 8, "encoder_causal": 8, "encoder_torch": 8, "vit": 9}  # fmt: skip


@pytest.mark.parametrize("family", TRANSPOSES)
def test_what_is_left_of_a_torch_net(family: str) -> None:
    """One transpose at the input (and one at an output that is a picture); in attention three for the heads and one back per layer."""
    pytest.importorskip("torch")
    from sdk.graph.from_torch import from_torch
    from tests.torch_nets import FAMILIES

    made = FAMILIES[family]
    left = Counter(n.op for n in prepare(from_torch(made.net(), made.samples(1))).nodes)
    assert left["transpose"] <= TRANSPOSES[family]
    assert not {"batch_norm", "relu", "relu6"} & set(left)
