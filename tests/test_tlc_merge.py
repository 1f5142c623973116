"""Merged equals unmerged: two convolutions, inverted residuals, whole networks; OFF channels leave the weights; the result goes to a board."""

from __future__ import annotations

import copy
import random
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import sdk
from benchmarks import tlc_nets
from sdk.errors import UsageError
from sdk.graph.interpreter import run
from sdk.prepare.tlc.nn.canonical import canonical
from sdk.prepare.tlc.nn.linearise import linearise, removed
from sdk.prepare.tlc.nn.merge import finish, merge
from sdk.prepare.tlc.nn.nodes import ChannelAffine
from sdk.prepare.tlc.nn.repad import repad
from sdk.prepare.tlc.nn.segments import Segment, segments
from sdk.prepare.tlc.nn.trace import sites

torch.set_num_threads(1)
canonical_of = cache(lambda name: canonical(tlc_nets.net(name), tlc_nets.example(name)))


@cache
def segments_of(name: str) -> tuple[Segment, ...]:
    return segments(canonical_of(name), 9)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


@torch.no_grad()
def answer(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


def without(made: fx.GraphModule, chosen: tuple[Segment, ...] | list[Segment], seed: int = 0, shift: float = 0.0) -> fx.GraphModule:
    """The network with the activations inside `chosen` removed, a third of the channels OFF."""
    generator = torch.Generator().manual_seed(seed)
    for site in sites(made):
        if any(site.name in segment.sites for segment in chosen):
            on = torch.rand(site.channels, generator=generator) > 0.33
            made = linearise(made, site, on, shift=shift * torch.randn(site.channels, generator=generator))
    return made


def whole(name: str, *keys: str) -> tuple[fx.GraphModule, list[Segment]]:
    return canonical_of(name), [segment for segment in segments_of(name) if segment.key in keys]


sizes = st.integers(1, 3)
layers = st.tuples(sizes, sizes, st.integers(1, 2), st.integers(1, 2), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2), st.booleans())


@given(layers, layers, st.sampled_from([(1, 1), (2, 2), (4, 4), (1, 4), (4, 1), (2, 4), (4, 2), (1, 2)]), st.integers(0, 9))
@settings(max_examples=20)
def test_two_convolutions_are_one(first, second, groups, seed):
    torch.manual_seed(seed)
    pair = [nn.Conv2d(4, 4, (a, b), (s, t), (p, q), d, groups=g, bias=bias) for (a, b, s, t, p, q, d, bias), g in zip((first, second), groups, strict=True)]
    net = nn.Sequential(pair[0], nn.BatchNorm2d(4), nn.ReLU(), pair[1]).double().eval()
    for name in ("running_mean", "weight", "bias"):
        nn.init.uniform_(getattr(net[1], name), 0.5, 1.5)
    x = torch.randn(2, 4, 14, 13, dtype=torch.float64)
    spans = [[d * (k - 1) + 1 for k in pair[i].kernel_size] for i, d in enumerate((first[6], second[6]))]
    made = canonical(net, x)
    chosen = segments(made, 99)
    assume(len(chosen) == 1 and min(answer(net, x).shape) > 0)
    assert chosen[0].kernel == tuple(k1 + (k2 - 1) * s for k1, k2, s in zip(*spans, pair[0].stride, strict=True))
    assert chosen[0].stride == tuple(a * b for a, b in zip(pair[0].stride, pair[1].stride, strict=True))
    gone = linearise(made, "2")
    padded = repad(gone, chosen)
    one = merge(padded, chosen)
    assert [type(layer) for layer in one.modules() if not list(layer.children())] == [nn.Conv2d]
    assert apart(answer(one, x), answer(padded, x)) < 1e-12
    if not any(pair[1].padding):
        assert apart(answer(one, x), answer(gone, x)) < 1e-12, "nothing pads inside, so nothing changed at the border"


def test_without_the_padding_in_front_the_border_is_wrong_and_only_the_border():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).double()
    x = torch.randn(2, 4, 12, 12, dtype=torch.float64)
    made = linearise(canonical(net, x), "1")
    chosen = segments(made)
    with pytest.raises(UsageError, match="segment 0\\+2 pads inside, so merging would change its border; call `repad` before training"):
        merge(made, chosen)
    padded = repad(made, chosen)
    change = (answer(padded, x) - answer(made, x)).abs()
    assert change[..., 1:-1, 1:-1].max() < 1e-12
    assert change.max() > 0.01
    assert answer(repad(padded, chosen), x).equal(answer(padded, x)), "a second time changes nothing"


def test_an_inverted_residual_becomes_one_convolution_with_a_dirac_kernel():
    made, chosen = whole("mobilenetv2_short", "3.body.0.0+3.body.1.0+3.body.2.0+add")
    made, x = copy.deepcopy(made).double(), tlc_nets.example("mobilenetv2_short").double()
    padded = repad(without(made, chosen), chosen)
    one = merge(padded, chosen)
    layer = one.get_submodule("3.body.0.0")
    assert (layer.in_channels, layer.out_channels, layer.kernel_size, layer.padding) == (8, 8, (3, 3), (1, 1))
    assert not hasattr(one.get_submodule("3.body"), "2")
    assert apart(answer(one, x), answer(padded, x)) < 1e-12
    zeroed = copy.deepcopy(padded)
    nn.init.zeros_(zeroed.get_submodule("3.body.2.1").weight)  # the block's branch gives a constant: only the residual connection is left
    dirac = merge(zeroed, chosen).get_submodule("3.body.0.0").weight
    assert dirac.equal(nn.init.dirac_(torch.empty_like(dirac)))


@pytest.mark.parametrize(
    "name", ["mobilenetv2_short", "resnet18", "vgg16_bn", "swin", "bert", pytest.param("mobilenetv2", marks=pytest.mark.long)]
)  # fmt: skip
@pytest.mark.parametrize("seed, dtype, bound", [(0, torch.float64, 1e-12), (1, torch.float32, 1e-4)])
def test_a_whole_network_merged_at_random_places_computes_the_same(name, seed, dtype, bound):
    x = tlc_nets.example(name)
    x = x.to(dtype) if x.is_floating_point() else x
    made, pool = copy.deepcopy(canonical_of(name)).to(dtype), list(segments_of(name))
    random.Random(seed).shuffle(pool)
    chosen: list[Segment] = []
    for segment in pool:
        if len(chosen) < 3 and not {op for other in chosen for op in other.ops} & set(segment.ops):
            chosen.append(segment)
    padded = repad(without(made, chosen, seed), chosen)
    one = finish(padded, chosen)
    assert apart(answer(one, x), answer(padded, x)) < bound
    kinds = [type(layer) for layer in one.modules()]
    assert not {nn.BatchNorm2d, nn.Dropout, ChannelAffine} & set(kinds)
    ops = sum(issubclass(kind, nn.Conv2d | nn.Linear) for kind in kinds)
    assert ops == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in made.modules()) - sum(len(s.ops) - 1 for s in chosen)


class Sum(nn.Module):
    """x -> ReLU of a 3x3, a 1x1 and no convolution, each with batch norm: as RepVGG trains."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4)) for k in (3, 1))
        self.c = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x) + self.b(x) + self.c(x))


class NormFirst(nn.Module):
    """x + convolutions with norm and activation before each: a residual block whose stream is never activated."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.m = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.m(self.a(torch.relu(self.n(x))))))


def conv1d() -> nn.Module:
    layers = [nn.Conv1d(4, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, 1, 1, groups=8), nn.ReLU(), nn.Conv1d(8, 6, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))


def same() -> nn.Module:
    wide = nn.Conv2d(8, 8, (1, 3), padding="same", dilation=(1, 2))
    return nn.Sequential(nn.Conv2d(4, 8, (3, 5), padding="same"), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(8, 4, 2, padding="valid"))


def circular() -> nn.Module:
    turning = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), turning, nn.ReLU(), nn.Conv2d(8, 4, 1))


PICTURES = (3, 4, 12, 11)


@pytest.mark.parametrize("build, shape, keys", [
    (conv1d, (3, 4, 30), {"0+3", "0+3+5", "3+5", "5+9"}), (same, PICTURES, {"0+2", "0+2+4", "2+4"}), (circular, PICTURES, set()),
    (lambda: nn.Sequential(Sum(), Sum()), PICTURES, {"0.a.0+0.b.0+add", "1.a.0+1.b.0+add", "0.a.0+0.b.0+1.a.0+1.b.0+add"}),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), NormFirst()), PICTURES, {"0+1.a+1.b+add", "1.a+1.b"}),
    (lambda: nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 9), nn.GELU(), nn.Linear(9, 4)), (6, 8), {"0+3", "0+3+5", "3+5"}),
])  # fmt: skip
def test_other_structures_too_one_segment_at_a_time_and_all_activations_gone(build, shape, keys):
    torch.manual_seed(0)
    net, x = build().double().eval(), torch.randn(shape, dtype=torch.float64)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for name in ("running_mean", "running_var", "weight", "bias"):
                nn.init.uniform_(getattr(layer, name), 0.5, 1.5)
    made = canonical(net, x)
    every = segments(made, 11)
    assert {segment.key for segment in every} == keys and len(keys) == len(every)
    for segment in every:
        padded = repad(without(made, [segment], shift=0.5), [segment])
        assert apart(answer(finish(padded, [segment]), x), answer(padded, x)) < 1e-12
    gone = made
    for number, site in enumerate(sites(made)):
        gone = linearise(gone, site, torch.arange(site.channels) % 3 != number % 3, shift=torch.linspace(-1, 1, site.channels))
    assert apart(answer(finish(gone), x), answer(gone, x)) < 1e-12


def test_pooling_comes_before_a_pointwise_convolution_and_the_classifier_as_one():
    made, chosen = whole("mobilenetv2_short", "6.0+9")
    x = tlc_nets.example("mobilenetv2_short")
    gone = without(made, chosen)
    one = merge(repad(gone, chosen), chosen)
    assert (chosen[0].kind, chosen[0].merged_macs) == ("pooled", 160)
    layer = one.get_submodule("6.0")
    assert isinstance(layer, nn.Linear) and layer.weight.shape == (10, 16)
    assert apart(answer(one, x), answer(gone, x)) < 1e-4


def test_a_chain_that_starts_within_a_block_crops_the_residual_connection():
    made, chosen = whole("mobilenetv2_short", "4.body.1.0+4.body.2.0+5.body.0.0+5.body.1.0+5.body.2.0+add")
    padded = repad(without(made, chosen), chosen)
    crops = [n for n in padded.graph.nodes if n.target is nn.functional.pad and n.args[1][0] < 0]
    assert len(crops) == 1
    x = tlc_nets.example("mobilenetv2_short")
    assert apart(answer(merge(padded, chosen), x), answer(padded, x)) < 1e-4


def test_a_linear_layer_of_tokens_takes_in_its_residual_connection():
    made, chosen = whole("bert", "layers.0.grow+layers.0.shrink+add")
    gone = without(made, chosen, shift=0.3)
    one = merge(gone, chosen)
    assert one.get_submodule("layers.0.grow").weight.shape == (32, 32)
    x = tlc_nets.example("bert")
    assert apart(answer(one, x), answer(gone, x)) < 1e-4


def test_removing_leaves_the_network_it_was_given_alone():
    made, x = canonical_of("resnet18"), tlc_nets.example("resnet18")
    before = {name: value.clone() for name, value in made.state_dict().items()}
    on = torch.arange(16) % 2 == 0
    gone = linearise(made, "0.2", on)
    assert all(value.equal(before[name]) for name, value in made.state_dict().items())
    assert len(sites(made)) == 17 and len(sites(gone)) == 16
    assert removed(made) == {} and removed(gone)["0.2"].equal(on)
    again = canonical(gone, x)
    assert answer(again, x).equal(answer(gone, x)) and removed(again)["0.2"].equal(on)


def test_off_channels_stay_zero_while_the_rest_trains():
    x, on = tlc_nets.example("vgg16_bn", 4), torch.arange(16) % 3 == 0
    made = linearise(canonical_of("vgg16_bn"), "0.9", on).train()
    conv, norm = made.get_submodule("0.7"), made.get_submodule("0.8")
    before = conv.weight.detach().clone()
    optimiser = torch.optim.SGD(made.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(made(x), torch.arange(4)).backward()
        optimiser.step()
    for values in (conv.weight, norm.weight, norm.bias):
        assert not values[~on].any() and values[on].abs().min() > 0
    assert not conv.weight[on].equal(before[on])
    assert made.get_submodule("0.9").on.equal(on)


def test_the_general_form_scales_and_shifts_each_channel():
    made, x = canonical_of("vgg16_bn"), tlc_nets.example("vgg16_bn")
    scale, shift = torch.linspace(0, 1, 8), torch.linspace(-1, 1, 8)
    layer = linearise(made, "0.2", scale=scale, shift=shift).get_submodule("0.2")
    y = torch.randn(2, 8, 3, 3)
    assert torch.allclose(layer(y), y * scale.view(1, 8, 1, 1) + shift.view(1, 8, 1, 1))
    assert layer.on.tolist() == [False] + [True] * 7
    assert answer(linearise(made, "3", scale=torch.ones(64)), x).shape == (2, 10)


def widths(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def cut_at(name: str, site: str, shift: float = 0.0) -> tuple[dict[str, tuple[int, ...]], float]:
    """(weight shapes after the first three channels of a site are OFF, how far the answer is from that of the uncut network), float64."""
    made, x = copy.deepcopy(canonical_of(name)).double(), tlc_nets.example(name).double()
    channels = next(s.channels for s in sites(made) if s.name == site)
    on = torch.arange(channels) >= 3
    gone = linearise(made, site, on, shift=torch.where(on, 0.0, shift))
    small = finish(gone)
    return widths(small), apart(answer(small, x), answer(gone, x))


@pytest.mark.parametrize("name, site, shift, shapes", [
    ("mobilenetv2_short", "2.body.0.2", 0.0, {"2.body.0.0": (45, 8, 1, 1), "2.body.1.0": (45, 1, 3, 3), "2.body.2.0": (8, 45, 1, 1)}),
    ("mobilenetv2_short", "2.body.0.2", 0.5, {"2.body.0.0": (48, 8, 1, 1), "2.body.1.0": (48, 1, 3, 3), "2.body.2.0": (8, 48, 1, 1)}),
    ("mobilenetv2_short", "2.body.1.2", 0.5, {"2.body.0.0": (45, 8, 1, 1), "2.body.1.0": (45, 1, 3, 3), "2.body.2.0": (8, 45, 1, 1)}),
    ("resnet18", "3.body.0.2", 0.0, {"3.body.0.0": (29, 16, 3, 3), "3.body.1.0": (32, 29, 3, 3)}),
    ("resnet18", "3.relu", 0.0, {"3.body.1.0": (32, 32, 3, 3), "4.body.0.0": (32, 32, 3, 3)}),
    ("vgg16_bn", "0.5", 0.0, {"0.3": (5, 8, 3, 3), "0.7": (16, 5, 3, 3)}),
    ("vgg16_bn", "0.42", 0.7, {"0.40": (61, 64, 3, 3), "2": (64, 61)}),
    ("vgg16_bn", "3", 0.7, {"2": (61, 64), "5": (64, 61)}),
])  # fmt: skip
def test_off_channels_leave_the_weights_where_that_is_exact(name, site, shift, shapes):
    """Through depthwise convolutions and pooling; not where padding puts zeros beside a constant, nor out of a residual stream."""
    got, difference = cut_at(name, site, shift)
    assert {op: got[op] for op in shapes} == shapes
    assert difference < 1e-12


def test_a_wide_map_is_flattened_channel_by_channel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5)).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    on = torch.tensor([True, False, True, True, False, True])
    gone = linearise(canonical(net, x), "1", on, shift=torch.where(on, 0.0, 1.5))
    small = finish(gone)
    assert widths(small) == {"0": (4, 3, 3, 3), "3": (5, 64)}
    assert apart(answer(small, x), answer(gone, x)) < 1e-12


def test_a_layer_of_which_nothing_is_left_keeps_one_channel():
    made = linearise(canonical_of("vgg16_bn"), "3", torch.zeros(64, dtype=torch.bool))
    small = finish(made)
    assert (widths(small)["2"], widths(small)["5"]) == ((1, 64), (64, 1))
    x = tlc_nets.example("vgg16_bn")
    assert apart(answer(small, x), answer(made, x)) < 1e-4


def test_a_stand_in_behind_a_residual_add_stays_as_a_multiplication():
    made, x = canonical_of("resnet18"), tlc_nets.example("resnet18")
    gone = linearise(made, "1.relu", torch.arange(16) % 2 == 0)
    small = finish(gone)
    assert [type(layer) for layer in small.modules()].count(ChannelAffine) == 1
    assert apart(answer(small, x), answer(gone, x)) < 1e-4
    identity = finish(linearise(made, "1.relu"))
    assert ChannelAffine not in [type(layer) for layer in identity.modules()]


@pytest.mark.parametrize("name, keys", [
    ("mobilenetv2_short", ("2.body.0.0+2.body.1.0+2.body.2.0", "3.body.0.0+3.body.1.0+3.body.2.0+add", "6.0+9")),
    pytest.param("resnet18", ("4.body.0.0+4.body.1.0+add",), marks=pytest.mark.long),
])  # fmt: skip
def test_the_result_goes_to_a_board(name, keys):
    made, chosen = whole(name, *keys)
    assert len(chosen) == len(keys)
    x = tlc_nets.example(name, 1)
    small = finish(repad(without(made, chosen), chosen), chosen)
    dense, model = sdk.load(made, example=x), sdk.load(small, example=x)
    (got,) = run(model.graph, {model.graph.inputs[0]: x.numpy()}).values()
    assert np.allclose(got, answer(small, x).numpy(), atol=1e-4 * float(answer(small, x).abs().max()))
    before, after = (sdk.plan("stm32f746", m, calibration=tlc_nets.example(name, 2, 1).numpy()) for m in (dense, model))
    assert after.fits
    assert after.cost.macs == before.cost.macs - sum(s.macs - s.merged_macs for s in chosen)


@pytest.mark.parametrize("act, text", [
    (lambda made, _: linearise(made, "nothing"), "has no activation 'nothing'"),
    (lambda made, _: linearise(made, "0.0"), "no activation '0.0' that can be removed; it has 0.2, "),
    (lambda made, _: linearise(linearise(made, "0.2"), "0.2"), "activation 0.2 is removed already"),
    (lambda made, _: linearise(made, "0.2", torch.ones(3)), r"0.2 has 16 channels and on has shape \[3\]; give one value a channel"),
    (lambda made, _: linearise(made, "0.2", shift=torch.ones(16, 1)), r"0.2 has 16 channels and shift has shape \[16, 1\]"),
    (lambda made, every: merge(made, every[:1]), "its activation .* is still there; remove it with `linearise` first"),
    (lambda made, every: merge(made, [every[1], every[2]]), r"segments 1.body.0.0\+1.body.1.0 and .*\+add both merge 1.body.0.0; choose one of them"),
    (lambda made, every: repad(merge(repad(without(made, every[1:2]), every[1:2]), every[1:2]), every[2:3]), r"has no segment 1.body.0.0\+.*\+add"),
])  # fmt: skip
def test_what_cannot_be_done_is_told(act, text):
    with pytest.raises(UsageError, match=text):
        act(canonical_of("resnet18"), segments_of("resnet18"))
