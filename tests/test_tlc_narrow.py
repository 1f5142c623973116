"""The middle of two layers narrowed: nothing changes at full width, rank that is not there costs nothing, directions are the best there are."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from benchmarks import tlc_nets
from sdk.errors import DataError, UsageError
from sdk.prepare.tlc.nn.canonical import canonical
from sdk.prepare.tlc.nn.linearise import linearise, removed
from sdk.prepare.tlc.nn.merge import finish
from sdk.prepare.tlc.nn.narrow import kept_energy, narrow, narrowed
from sdk.prepare.tlc.nn.trace import sites

torch.set_num_threads(1)


def pair(kind: str, rank: int = 8, seed: int = 0) -> tuple[fx.GraphModule, Tensor]:
    """Two layers without the activation between, float64; the first makes `rank` independent channels of 8. And inputs."""
    torch.manual_seed(seed)
    norm: list[nn.Module] = []
    if kind == "linear":
        first, second, x = nn.Linear(9, 8), nn.Linear(8, 5), torch.randn(40, 9, dtype=torch.float64)
    elif kind == "tokens":
        first, second, x = nn.Linear(9, 8), nn.Linear(8, 5, bias=False), torch.randn(6, 7, 9, dtype=torch.float64)
    else:
        first, second = nn.Conv2d(3, 8, 3, 2, 2, 2, bias=kind == "conv"), nn.Conv2d(8, 5, 3, padding=1)
        x = torch.randn(6, 3, 12, 12, dtype=torch.float64)
        norm = [nn.BatchNorm2d(8)] if kind == "norm" else []
    with torch.no_grad():
        mix = torch.randn(8, rank) @ torch.randn(rank, 8)
        first.weight.copy_(torch.tensordot(mix, first.weight, 1))
        if first.bias is not None:
            first.bias.copy_(mix @ first.bias)
    net = nn.Sequential(first, *norm, nn.ReLU(), nn.Dropout(0.5), second).double()
    for layer in norm:
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        if rank == 8:
            nn.init.uniform_(layer.running_mean, -1, 1)
    module = canonical(net, x)
    site = sites(module)[0]
    return linearise(module, site, scale=torch.linspace(0.5, 1.5, 8), shift=torch.linspace(-1, 1, 8) * (rank == 8)), x


def site_of(module: fx.GraphModule) -> str:
    return next(iter(removed(module)))


@torch.no_grad()
def answer(net: nn.Module, x: Tensor) -> Tensor:
    return net.eval()(x)


KINDS = ("linear", "tokens", "conv", "norm")


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_width_nothing_changes(kind):
    module, x = pair(kind)
    made = narrow(module, site_of(module), 8, [x])
    assert torch.allclose(answer(made, x), answer(module, x), atol=1e-9)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in made.modules())
    assert removed(made)[site_of(module)].tolist() == [True] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_directions_that_nothing_flows_in_cost_nothing(kind):
    module, x = pair(kind, rank=3)
    site = site_of(module)
    assert kept_energy(module, site, [x])[2] > 1 - 1e-9
    made = narrow(module, site, 3, [x])
    assert torch.allclose(answer(made, x), answer(module, x), atol=1e-6)
    small = finish(made)
    shapes = [tuple(layer.weight.shape[:2]) for layer in small.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert shapes == [(3, 3 if kind in ("conv", "norm") else 9), (5, 3)]
    assert torch.allclose(answer(small, x), answer(made, x), atol=1e-9)


@given(st.sampled_from(["linear", "tokens"]), st.integers(1, 7), st.integers(0, 20))
@settings(max_examples=20)
def test_no_other_middle_of_that_width_is_better(kind, width, seed):
    """For linear layers the best approximation of rank r is known: all but the r largest singular values of what the second makes are lost."""
    module, x = pair(kind, seed=seed)
    site = site_of(module)
    error = (answer(narrow(module, site, width, [x]), x) - answer(module, x)).square().sum()
    held: list[Tensor] = []
    module.get_submodule(site).register_forward_hook(lambda *_: held.append(_[2]))
    answer(module, x)
    made = held[0].flatten(0, -2) @ module.get_submodule("3").weight.detach().T
    best = torch.linalg.svdvals(made)[width:].square().sum()
    assert error <= best * (1 + 1e-5) + 1e-9
    kept = kept_energy(copy.deepcopy(module), site, [x])
    assert torch.isclose(1 - kept[width - 1], best / made.square().sum(), atol=1e-7)


def test_the_energy_kept_rises_to_one():
    module, x = pair("norm")
    kept = kept_energy(module, site_of(module), [x[:3], x[3:]])
    assert kept.shape == (8,) and (kept.diff() >= 0).all() and torch.isclose(kept[-1], torch.ones((), dtype=torch.float64))


def test_a_checkpoint_is_loaded_into_the_narrowed_structure():
    module, x = pair("norm")
    site = site_of(module)
    made = narrow(module, site, 4, [x])
    shaped = narrowed(module, site, 4)
    assert {k: v.shape for k, v in shaped.state_dict().items()} == {k: v.shape for k, v in made.state_dict().items()}
    assert not torch.allclose(answer(shaped, x), answer(made, x))
    shaped.load_state_dict(made.state_dict())
    assert answer(shaped, x).equal(answer(made, x))


def test_a_residual_block_is_narrowed_in_its_middle_and_trains_on():
    x = tlc_nets.example("resnet18", 4)
    module = linearise(canonical(tlc_nets.net("resnet18"), x), "3.body.0.2")
    made = narrow(module, "3.body.0.2", 16, [x]).train()
    assert made.get_submodule("3.body.0.0").weight.shape == (16, 16, 3, 3)
    assert made.get_submodule("3.body.1.0").weight.shape == (32, 16, 3, 3)
    nn.functional.cross_entropy(made(x), torch.arange(4)).backward()
    assert made.get_submodule("3.body.0.0").weight.grad.abs().max() > 0
    assert len(sites(made)) == 16


def depthwise() -> fx.GraphModule:
    x = tlc_nets.example("mobilenetv2_short")
    return linearise(canonical(tlc_nets.net("mobilenetv2_short"), x), "2.body.0.2")


def forked() -> fx.GraphModule:
    x = tlc_nets.example("resnet18")
    return linearise(canonical(tlc_nets.net("resnet18"), x), "2.relu")


@pytest.mark.parametrize("call, kind, text", [
    (lambda m, x: narrow(m, "0", 4, [x]), UsageError, "cannot narrow '0': no activation of that name was removed"),
    (lambda m, x: narrow(m, site_of(m), 0, [x]), UsageError, "to 0 channels: give 1 to 8"),
    (lambda m, x: narrow(m, site_of(m), 9, [x]), UsageError, "to 9 channels: give 1 to 8"),
    (lambda m, x: narrow(m, site_of(m), 4, []), DataError, "needs at least one batch of inputs"),
    (lambda m, x: narrow(m, site_of(m), 4, [x * float("inf")]), DataError, "values that are not finite"),
    (lambda m, x: narrowed(depthwise(), "2.body.0.2", 4), UsageError, "cannot narrow 2.body.0.2: 2.body.1.0 beside it is no dense layer"),
    (lambda m, x: narrowed(forked(), "2.relu", 4), UsageError, "cannot narrow 2.relu: .* beside it is no dense layer"),
])  # fmt: skip
def test_what_cannot_be_narrowed_is_told(call, kind, text):
    module, x = pair("linear")
    with pytest.raises(kind, match=text):
        call(module, x)
