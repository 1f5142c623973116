"""Sites and segments are found by what the network computes: in five families, however activations are written, whatever modules are called."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import tlc_nets
from sdk.errors import UsageError
from sdk.prepare.tlc.nn.canonical import canonical
from sdk.prepare.tlc.nn.segments import part, segments
from sdk.prepare.tlc.nn.trace import Site, linear_ops, norm_parameters, sites

torch.set_num_threads(1)


class Written(nn.Module):
    """Convolution, whatever `act` is, convolution."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


class Block(nn.Module):
    """A residual block with names that say nothing; one ReLU module is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.c, self.d, self.relu = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.d(self.c(self.relu(self.b(self.a(x))))) + x)


PICTURE = torch.rand(2, 3, 8, 8)
net_of, canonical_of = cache(tlc_nets.net), cache(lambda name: canonical(net_of(name), tlc_nets.example(name)))


def found(net: nn.Module, example: Tensor = PICTURE) -> dict[str, Site]:
    return {site.name: site for site in sites(canonical(net, example))}


@pytest.mark.parametrize(
    "name, count, merge", [("resnet18", 17, 9), ("mobilenetv2", 35, 35), ("vgg16_bn", 15, 10), ("swin", 4, 4), ("bert", 2, 2)]
)  # fmt: skip
def test_each_family_has_the_sites_that_its_paper_counts(name, count, merge):
    net, x, made = net_of(name), tlc_nets.example(name), copy.deepcopy(canonical_of(name))
    with torch.no_grad():
        assert torch.equal(made(x), net(x))
    got = sites(made)
    assert len(got) == count
    assert sum(site.mergeable for site in got) == merge
    assert all(bool(site.why_not) != site.mergeable for site in got)
    seen = {}
    for site in got:
        made.get_submodule(site.name).register_forward_pre_hook(lambda _, given, name=site.name: seen.update({name: given[0]}))
    with torch.no_grad():
        made(x)
    for site in got:
        assert seen[site.name].shape[1:] == site.shape[1:], "the module under a site's name is the activation"
        assert site.channels == seen[site.name].shape[site.channel_dim]


def test_a_batch_norm_that_feeds_an_add_describes_no_activation():
    got = {site.name: site for site in sites(canonical_of("resnet18"))}
    first, second = got["3.body.0.2"], got["3.relu"]
    assert (first.kind, first.norm, first.sources, first.exclusive, first.stream) == ("bn", "3.body.0.1", ("3.body.0.0",), True, False)
    assert (second.kind, second.norm, second.exclusive, second.stream) == ("statistics", None, False, True)
    assert second.sources == ("3.body.1.0", "3.skip.0")
    assert second.followers == ("4.body.0.0",), "what stands behind the next activation is no follower"
    assert got["8.relu"].followers == ("11",), "through pooling and flatten"


def test_a_linear_projection_of_mobilenetv2_is_no_candidate():
    net = net_of("mobilenetv2")
    norms = {site.norm for site in sites(canonical_of("mobilenetv2"))}
    projections = {f"{i}.body.{1 if i == 1 else 2}.1" for i in range(1, 18)}
    every = {name for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert projections <= every
    assert not norms & projections
    assert norms == every - projections


@pytest.mark.parametrize("act, name", [
    (nn.ReLU(), "relu"), (nn.ReLU(inplace=True), "relu"), (F.relu, "relu"), (torch.relu, "relu"), (lambda x: x.relu(), "relu"), (lambda x: x.relu_(), "relu"),
    (lambda x: x.clamp(min=0), "relu"), (nn.ReLU6(), "relu6"), (F.relu6, "relu6"), (nn.Hardtanh(0, 6), "relu6"), (lambda x: torch.clamp(x, 0, 6), "relu6"),
    (nn.Hardswish(), "hswish"), (F.hardswish, "hswish"), (nn.GELU("tanh"), "gelu"), (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
    (nn.SiLU(), "silu"), (F.silu, "silu"), (nn.LeakyReLU(0.2), "leaky_relu"), (lambda x: F.leaky_relu(x, 0.3), "leaky_relu"),
])  # fmt: skip
def test_an_activation_is_found_however_it_is_written(act, name):
    net = Written(act).eval()
    made = canonical(net, PICTURE)
    (site,) = sites(made)
    assert (site.activation, site.sources, site.followers, site.shape) == (name, ("first",), ("second",), (1, 4, 8, 8))
    with torch.no_grad():
        assert torch.equal(made(PICTURE), net(PICTURE))


@pytest.mark.parametrize("act", [
    torch.sigmoid, torch.tanh, lambda x: x * F.relu6(x + 3) / 6, lambda x: x * F.silu(x), lambda x: torch.clamp(x, 0, 3), lambda x: F.relu(torch.sin(x)),
])  # fmt: skip
def test_a_gate_or_another_function_is_no_site(act):
    assert found(Written(act)) == {}


def test_two_calls_of_one_module_are_two_sites_and_names_tell_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Block(), Block(), nn.Conv2d(4, 2, 1)).eval()
    got = found(net)
    assert list(got) == ["1.relu", "1.relu_2", "2.relu", "2.relu_2"]
    assert [site.kind for site in got.values()] == ["bn", "statistics"] * 2
    assert canonical(net, PICTURE).get_submodule("1.relu").inplace is False


def test_what_an_activation_in_place_changes_is_read_changed():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = self.second(F.relu(y, inplace=True))
            return z + y

    net = InPlace().eval()
    made = canonical(net, PICTURE)
    with torch.no_grad():
        assert torch.equal(made(PICTURE), net(PICTURE))
    assert found(net)["relu"].stream


def test_a_norm_before_the_convolution_is_found():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()
    site = found(net)["2"]
    beta, gamma = norm_parameters(canonical(net, PICTURE), site)
    assert beta.tolist() == [0.0] * 4 and gamma.tolist() == [1.0] * 4
    assert beta.dtype == torch.float64
    with pytest.raises(UsageError, match="no batch norm feeds act directly; measure"):
        norm_parameters(canonical(Written(nn.ReLU()), PICTURE), found(Written(nn.ReLU()))["act"])


def test_torchs_own_transformer_layers_are_looked_into():
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)).eval()
    got = found(net, torch.rand(2, 5, 16))
    assert [(site.activation, site.sources, site.followers) for site in got.values()] == [
        ("gelu", (f"0.layers.{i}.linear1",), (f"0.layers.{i}.linear2",)) for i in (0, 1)
    ]


def test_linear_ops_come_in_order_of_computation():
    net = Written(nn.ReLU())
    net.first, net.second = net.first, net.second
    assert linear_ops(canonical(net, PICTURE)) == ("first", "second")


def branches(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


class Two(nn.Module):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Noise(nn.Module):
    """Another output each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("net, example, text", [
    (Written(branches), PICTURE, "cannot trace Written: .*write its forward without branches on the values of its input"),
    (Two(), PICTURE, "Two returns a tuple, not one tensor; wrap it"),
    (Noise(), PICTURE, "Noise computes something else once traced"),
    (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))), PICTURE, "0 has parametrized weights; call torch.nn.utils.param"),
    (Written(nn.ReLU()), torch.rand(2, 5, 8, 8), r"Written does not take an example of shape \[1, 5, 8, 8\]"),
])  # fmt: skip
def test_what_cannot_be_traced_is_refused(net, example, text):
    with pytest.raises(UsageError, match=text):
        canonical(net, example)


def work(module: nn.Module, x: Tensor) -> int:
    """Products that a module's convolutions and linear layers compute, counted where they are called."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        total += y.numel() * layer.weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", "bert", "vgg16_bn"])
def test_a_segment_costs_what_its_parts_are_counted_to_cost(name):
    made = canonical_of(name)
    every = segments(made, max_kernel=5)
    assert len({segment.key for segment in every}) == len(every)
    for segment in every[:: max(1, len(every) // 12)]:
        before, shape = part(made, segment, merged=False)
        after, same = part(made, segment, merged=True)
        x = torch.rand(shape)
        assert shape == same == segment.input_shape
        with torch.no_grad():
            assert before(x).shape == after(x).shape == segment.output_shape
        assert (work(before, x), work(after, x)) == (segment.macs, segment.merged_macs)


def test_an_inverted_residual_is_one_segment_with_its_add():
    made = canonical_of("mobilenetv2")
    whole = {segment.key: segment for segment in segments(made)}["3.body.0.0+3.body.1.0+3.body.2.0+add"]
    assert whole.sites == ("3.body.0.2", "3.body.1.2")
    assert (whole.inputs, whole.outputs, whole.kernel, whole.stride, whole.padding, whole.groups) == (8, 8, (3, 3), (1, 1), (1, 1), 1)
    assert (whole.adds, whole.closes, whole.kind, whole.repads) == (1, True, "conv", True)


def test_a_segment_never_cuts_through_a_residual_connection():
    made = canonical_of("resnet18")
    for segment in segments(made):
        blocks = {re.match(r"\d+", op).group() for op in segment.ops}
        assert len(blocks) == 1 or "0" in blocks, segment.key
        if "0" in blocks:
            assert segment.closes, "the stem's output is read twice, so only with the whole block behind it"


def test_layers_that_share_weights_belong_to_no_segment():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once, self.twice = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(F.relu(self.twice(F.relu(self.once(x)))))

    made = canonical(Shared(), torch.rand(2, 8))
    assert segments(made) == ()
    assert [site.mergeable for site in sites(made)] == [False, False]
