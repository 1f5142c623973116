"""Least squares for the layer behind a removed activation: the same answer as numpy's, never worse than before, and the network's answers come back."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from benchmarks import small_nets, tlc_nets
from sdk.errors import DataError, UsageError
from sdk.prepare.tlc.nn.canonical import canonical
from sdk.prepare.tlc.nn.linearise import linearise
from sdk.prepare.tlc.nn.refit import refit, with_bias
from sdk.prepare.tlc.nn.repad import repad
from sdk.prepare.tlc.nn.segments import segments
from sdk.prepare.tlc.nn.trace import sites

torch.set_num_threads(1)
TINY = 1e-13  # a ridge that is there for the columns that never vary only


def values(module: fx.GraphModule, op: str, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) of one layer over all batches."""
    held: list[tuple[Tensor, Tensor]] = []
    handle = module.get_submodule(op).register_forward_hook(lambda _, x, y: held.append((x[0], y)))
    with torch.no_grad():
        for batch in batches:
            module.eval()(batch)
    handle.remove()
    return torch.cat([x for x, _ in held]), torch.cat([y for _, y in held])


def error(module: fx.GraphModule, reference: fx.GraphModule, op: str, batches: list[Tensor]) -> float:
    """Mean square of what is wrong with the layer's output."""
    return float((values(module, op, batches)[1] - values(reference, op, batches)[1]).square().mean())


def changed(module: fx.GraphModule, op: str, seed: int = 3) -> fx.GraphModule:
    """A copy with other weights in one layer."""
    generator = torch.Generator().manual_seed(seed)
    made = copy.deepcopy(module)
    for p in made.get_submodule(op).parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


def chain(second: nn.Module, dims: int = 2, seed: int = 0) -> tuple[fx.GraphModule, list[Tensor]]:
    """Convolution (or linear), SiLU, `second`, in float64; and some batches for it."""
    torch.manual_seed(seed)
    first: nn.Module = {0: nn.Linear(10, 8), 1: nn.Conv1d(4, 8, 3, padding=1), 2: nn.Conv2d(4, 8, 3, padding=1)}[dims]
    net = nn.Sequential(first, nn.SiLU(), second).double()
    batches = [torch.randn(24, 4 if dims else 10, *[7] * dims, dtype=torch.float64) for _ in range(2)]
    return canonical(net, batches[0]), batches


@given(
    st.sampled_from([(8, 5, 1), (8, 8, 8), (8, 4, 2), (8, 16, 8)]), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2),
    st.booleans(), st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=25)
def test_weights_that_explain_everything_are_found(shape, kernel, stride, padding, dilation, bias, dims):
    """The layer is given other weights; with its own input and old output there is one answer, its old weights."""
    assume(7 + 2 * padding >= dilation * (kernel - 1) + 1)
    inputs, outputs, groups = shape
    kind = nn.Conv2d if dims == 2 else nn.Conv1d
    module, batches = chain(kind(inputs, outputs, kernel, stride, padding, dilation, groups, bias), dims)
    solved = refit(changed(module, "2"), module, "2", batches, ridge=TINY)
    old, new = module.get_submodule("2"), solved.get_submodule("2")
    assert torch.allclose(new.weight, old.weight, atol=1e-7)
    assert new.bias is not None and torch.allclose(new.bias, old.bias if bias else torch.zeros_like(new.bias), atol=1e-7)


@pytest.mark.parametrize("kernel, options", [(3, {"padding": 1, "padding_mode": "circular"}), (5, {"padding": "same"}), (2, {"padding": "valid"})])
def test_other_ways_to_pad_are_solved_too(kernel, options):
    module, batches = chain(nn.Conv2d(8, 4, kernel, **options))
    solved = refit(changed(module, "2"), module, "2", batches, ridge=TINY)
    assert torch.allclose(solved.get_submodule("2").weight, module.get_submodule("2").weight, atol=1e-7)


@pytest.mark.parametrize("dims, second", [(0, nn.Linear(8, 3)), (2, nn.Conv2d(8, 3, 3, 2, 1))])
def test_numpys_least_squares_says_the_same(dims, second):
    module, batches = chain(second, dims)
    gone = linearise(module, "1", torch.arange(8) < 6)
    solved = refit(gone, module, "2", batches, ridge=TINY, rows=10**6).get_submodule("2")
    x, y = values(gone, "2", batches)[0], values(module, "2", batches)[1]
    if dims == 2:
        x = nn.functional.unfold(x, 3, 1, 1, 2).transpose(1, 2).flatten(0, 1)
        y = y.permute(0, 2, 3, 1).flatten(0, 2)
    columns = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    live = np.abs(columns).max(0) > 0
    wanted, *_ = np.linalg.lstsq(columns[:, live], y.numpy(), rcond=None)
    got = np.concatenate([solved.weight.detach().flatten(1).numpy(), solved.bias.detach().numpy()[:, None]], 1).T
    assert np.allclose(got[live], wanted, atol=1e-6)
    before = np.concatenate([module.get_submodule("2").weight.detach().flatten(1).numpy(), module.get_submodule("2").bias.detach().numpy()[:, None]], 1).T
    assert np.array_equal(got[~live], before[~live]), "columns of OFF channels say nothing and stay"


@given(st.floats(1e-8, 1e3), st.integers(0, 5), st.sampled_from(["1.body.1.0", "2.body.1.0", "2.body.2.0", "3.body.2.0", "9"]))
@settings(max_examples=12)
def test_the_layer_is_never_worse_than_before_on_the_data_it_was_solved_on(ridge, seed, op):
    module, batches = shorter(), [tlc_nets.example("mobilenetv2_short", 4, seed).double()]
    gone = linearise_before(module, op, seed)
    solved = refit(gone, module, op, batches, ridge=ridge, rows=10**6)
    assert error(solved, module, op, batches) <= error(gone, module, op, batches) * (1 + 1e-9)


@cache
def shorter() -> fx.GraphModule:
    """MobileNetV2's first blocks in float64."""
    x = tlc_nets.example("mobilenetv2_short").double()
    return canonical(tlc_nets.net("mobilenetv2_short").double(), x)


def linearise_before(module: fx.GraphModule, op: str, seed: int) -> fx.GraphModule:
    """Without the activation in front of `op`, a fifth of its channels OFF."""
    site = next(site for site in sites(module) if op in site.followers)
    return linearise(module, site, torch.rand(site.channels, generator=torch.Generator().manual_seed(seed)) > 0.2)


def test_answers_of_a_trained_network_come_back_on_inputs_that_it_was_not_solved_on():
    net = small_nets.pretrained("mobilenetv2_035")
    noise = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(96, 3, 8, 8, generator=noise), size=32, mode="bilinear")
    fit, other = smooth[:64], smooth[64:]
    module = canonical(net, fit[:1])
    gone = linearise(module, "3.body.1.2")
    solved = refit(gone, module, "3.body.2.0", [fit[:32], fit[32:]], rows=4000)
    with torch.no_grad():
        wanted = module(other)
        lost, left = ((m(other) - wanted).square().mean() / wanted.var() for m in (gone, solved))
    assert lost > 0.5, "removing this activation changes everything"
    assert left < 0.1 * lost


def test_a_batch_norm_behind_the_layer_takes_its_bias():
    module = shorter()
    gone = linearise_before(module, "2.body.2.0", 0)
    batches = [tlc_nets.example("mobilenetv2_short", 8).double()]
    solved = refit(gone, module, "2.body.2.0", batches)
    assert solved.get_submodule("2.body.2.0").bias is None
    assert list(solved.state_dict()) == list(gone.state_dict())
    moved = solved.get_submodule("2.body.2.1").running_mean - gone.get_submodule("2.body.2.1").running_mean
    assert moved.abs().max() > 0
    with torch.no_grad():
        added = with_bias(solved, "2.body.2.0")
        added.get_submodule("2.body.2.0").bias.sub_(moved)
        added.get_submodule("2.body.2.1").running_mean.sub_(moved)
        assert torch.allclose(added(batches[0]), solved(batches[0])), "what the mean lost is the bias"
        outputs = values(added, "2.body.2.0", batches)[1], values(module, "2.body.2.0", batches)[1]
    shift = (outputs[0] - outputs[1]).mean((0, 2, 3))
    assert shift.abs().max() < 0.05 * outputs[1].std(), "least squares with a bias leaves next to no mean error"


def test_solving_again_changes_nothing():
    """The bias of the first time lies in the batch norm's mean and must not be wished for again."""
    module, op = shorter(), "2.body.2.0"
    batches = [tlc_nets.example("mobilenetv2_short", 8).double()]
    once = refit(linearise_before(module, op, 0), module, op, batches, ridge=TINY, rows=10**6)
    again = refit(once, module, op, batches, ridge=TINY, rows=10**6)
    for name, value in again.state_dict().items():
        assert torch.allclose(value, once.state_dict()[name], atol=1e-6), name


def test_a_segment_that_was_padded_in_front_is_compared_in_its_middle():
    """Behind `repad` a layer within the segment makes a larger map; only the middle has a wish."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1)).double()
    batches = [torch.randn(16, 4, 9, 9, dtype=torch.float64)]
    module = canonical(net, batches[0])
    whole = [segment for segment in segments(module) if len(segment.ops) == 3]
    padded = repad(module, whole)
    old, larger = values(module, "2", batches)[1], values(padded, "2", batches)[1]
    assert (old.shape[-1], larger.shape[-1]) == (9, 11)
    solved = refit(changed(padded, "2"), module, "2", batches, ridge=TINY)
    middle = values(solved, "2", batches)[1][..., 1:-1, 1:-1]
    reached = float((middle - old).square().mean() / old.square().mean())
    best = float((larger[..., 1:-1, 1:-1] - old).square().mean() / old.square().mean())
    assert reached <= best * (1 + 1e-9), "at least as near as the weights of before"
    back = refit(changed(module, "2"), padded, "2", batches, ridge=TINY)
    assert torch.isfinite(back.get_submodule("2").weight).all()


def test_the_same_seed_solves_the_same_and_the_arguments_stay():
    module, batches = chain(nn.Conv2d(8, 3, 3, padding=1))
    gone = linearise(module, "1")
    before = copy.deepcopy(gone.state_dict())
    one, same, other = (refit(gone, module, "2", batches, rows=400, seed=seed).get_submodule("2").weight for seed in (0, 0, 1))
    assert one.equal(same) and not one.equal(other)
    assert all(value.equal(before[name]) for name, value in gone.state_dict().items())
    assert not gone.training and gone.get_submodule("2")._forward_hooks == {}


def shared() -> fx.GraphModule:
    layer = nn.Linear(4, 4)
    return canonical(nn.Sequential(layer, nn.ReLU(), layer), torch.rand(2, 4))


@pytest.mark.parametrize("call, kind, text", [
    (lambda m, b: refit(m, m, "1", b), UsageError, "cannot refit '1': it is no convolution or linear layer"),
    (lambda m, b: refit(m, m, "nothing", b), UsageError, "cannot refit 'nothing': it is no convolution"),
    (lambda m, b: with_bias(m, "1"), UsageError, "take one of `linear_ops`"),
    (lambda m, b: refit(shared(), shared(), "0", b), UsageError, "cannot refit '0': the network calls it more than once"),
    (lambda m, b: refit(m, m, "2", []), DataError, "refitting 2 needs at least one batch of inputs"),
    (lambda m, b: refit(m, m, "2", [b[0] * float("nan")]), DataError, "refitting 2 met values that are not finite; look for NaN"),
])  # fmt: skip
def test_what_cannot_be_solved_is_told(call, kind, text):
    module, batches = chain(nn.Conv2d(8, 3, 3, padding=1))
    with pytest.raises(kind, match=text):
        call(module, batches)
