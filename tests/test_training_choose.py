"""The programme that chooses what trains: equal to trying everything, never over its budget, never worse with more memory."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.planner.training import choose as programme
from sdk.planner.training.choose import Chosen, choose, curve, peak_of, smallest
from sdk.planner.training.fronts import Joint, Option
from sdk.planner.training.records import Choice
from sdk.planner.training.sentences import _how_good, _percent

METHODS = ("freeze", "bias", "fixed", "exact", "adapter", "recompute")


def random_layers(seed: int, depth: int, width: int, scale: int) -> list[list[Option]]:
    """`depth` layers of a freezing option and `width - 1` others, sizes up to `scale`; small scales make ties."""
    rng = np.random.default_rng(seed)
    return [[random_option(rng, i, METHODS[k % len(METHODS)], scale) for k in range(width)] for i in range(depth)]


def random_option(rng: np.random.Generator, layer: int, method: str, scale: int) -> Option:
    sizes = [int(n) for n in rng.integers(0, scale + 1, 5)]
    choice = Choice(f"layer{layer}", method)
    if method == "freeze":
        return Option(choice, 0.0, sizes[0] // 8, 0, 0, sizes[3], 0.1, 0, 0.0)
    return Option(choice, float(rng.integers(1, 9)), *sizes[:4], 0.5, sizes[4], 0.3)


def selections(layers, joints=(), at=0, started=False):
    """Every selection: each layer by an option of its own, or some of them together."""
    if at == len(layers):
        yield ()
        return
    for o in layers[at]:
        yield from ((o, *rest) for rest in selections(layers, joints, at + 1, started or o.trains))
    for joint in joints:
        if joint.first == at and (joint.inner if started else joint.starts):
            yield from ((*joint.options, *rest) for rest in selections(layers, joints, joint.end, True))


def by_hand(layers, budget, fixed, prefix, after, joints=()):
    """The largest value of all selections whose walk stays within the budget, and the smallest peak of any that trains."""
    best, least = None, None
    for options in selections(layers, joints):
        start = next((i for i, o in enumerate(options) if o.trains), None)
        if start is None:
            continue
        live, highest = 0, prefix[start]  # forward, then backward, a layer at a time
        for way in (range(start, len(options)), range(len(options) - 1, start - 1, -1)):
            for i in way:
                live = sum(o.saved_bytes for o in options[start : i + 1])
                highest = max(highest, live + (options[i].first_transient_bytes if i == start else options[i].transient_bytes))
        highest = max(highest, sum(o.saved_bytes for o in options[start:]) + after)
        peak = fixed + highest + sum(o.constant_bytes + o.weight_bytes for o in options[start:])
        least = peak if least is None else min(least, peak)
        if peak <= budget:
            value = sum(o.value for o in options)
            best = value if best is None else max(best, value)
    return best, least


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 4), st.sampled_from((3, 40, 10**6)), st.floats(0, 1.2))
def test_equal_to_trying_everything(seed, depth, width, scale, share):
    layers = random_layers(seed, depth, width, scale)
    rng = np.random.default_rng(seed + 1)
    prefix, after, fixed = [int(n) for n in rng.integers(0, scale, depth)], int(rng.integers(0, scale)), int(rng.integers(0, scale))
    budget = fixed + int(share * 3 * scale * depth)
    best, least = by_hand(layers, budget, fixed, prefix, after)
    found = choose(layers, budget, fixed, prefix, after)
    assert (found is None) == (best is None)
    if found is not None:
        assert found.value == pytest.approx(best, rel=1e-12) and found.exact and found.gap == 0
        assert found.peak_bytes == peak_of(found.options, fixed, prefix, after) <= budget
    assert smallest(layers, fixed, prefix, after).peak_bytes == least


def random_joints(seed: int, depth: int, scale: int) -> list[Joint]:
    """Options chosen together for up to three runs of layers, which may overlap."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(int(rng.integers(1, 4))):
        first = int(rng.integers(0, depth))
        end = int(rng.integers(first + 1, depth + 1))
        options = tuple(random_option(rng, i, "recompute", scale) for i in range(first, end))
        found.append(Joint(first, options, bool(rng.random() < 0.8), bool(rng.random() < 0.8)))
    return found


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 3), st.sampled_from((3, 40, 10**6)), st.floats(0, 1.2))
def test_equal_to_trying_everything_where_layers_are_chosen_together(seed, depth, width, scale, share):
    layers, joints = random_layers(seed, depth, width, scale), random_joints(seed + 2, depth, scale)
    rng = np.random.default_rng(seed + 1)
    prefix, after = [int(n) for n in rng.integers(0, scale, depth)], int(rng.integers(0, scale))
    budget = int(share * 3 * scale * depth)
    best, least = by_hand(layers, budget, 0, prefix, after, joints)
    found = choose(layers, budget, 0, prefix, after, joints=joints)
    assert (found is None) == (best is None)
    if found is not None:
        assert found.value == pytest.approx(best, rel=1e-12)
        assert found.peak_bytes == peak_of(found.options, 0, prefix, after) <= budget
    assert smallest(layers, 0, prefix, after, joints).peak_bytes == least


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from((40, 10**6)), st.floats(0.1, 1), st.integers(2, 8), st.sampled_from((3e-5, 0.3)))
def test_a_front_cut_short_still_tells_how_far_from_the_best_it_can_be(seed, depth, scale, share, states, coarsest):
    layers, joints = random_layers(seed, depth, 3, scale), random_joints(seed + 2, depth, scale)
    rng = np.random.default_rng(seed + 1)
    prefix, after = [int(n) for n in rng.integers(0, scale, depth)], int(rng.integers(0, scale))
    budget = int(share * 3 * scale * depth)
    best, _ = by_hand(layers, budget, 0, prefix, after, joints)
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("STATES", states), ("_THIN", 2), ("_COARSEST", coarsest)):
            patch.setattr(programme, name, number)
        found = [choose(layers, budget, 0, prefix, after, quick, joints) for quick in (False, True)]
    for chosen in found:
        if chosen is not None:
            assert chosen.value <= best <= chosen.most * (1 + 1e-12) and chosen.peak_bytes <= budget
            assert chosen.value >= best * (1 - chosen.gap) * (1 - 1e-9)
            assert not chosen.exact or chosen.value == pytest.approx(best, rel=1e-9)


def test_fifty_layers_of_forty_options_are_chosen_with_few_states():
    """Shares kept and their values as of compressed inputs, which are so near each other that no front stays short by itself."""
    rng, layers = np.random.default_rng(1), []
    for i in range(50):
        size, norm = int(4 * 10 ** rng.uniform(3.5, 5.5)), float(10 ** rng.uniform(-2, 0))
        layers.append([Option(Choice(f"l{i}", "freeze"), 0, size // 32, 0, 0, size)])
        for share in rng.uniform(0.02, 1, 39):
            value, basis, transient = norm * share**0.3 * rng.uniform(0.9, 1), rng.uniform(0, 0.2), rng.uniform(1, 2)
            layers[i].append(Option(Choice(f"l{i}", "fixed"), value, int(size * share), int(size * basis), 0, int(size * transient), 0, size))
    budget = peak_of([max(options, key=lambda o: o.value) for options in layers]) // 2
    found = choose(layers, budget)
    assert found.peak_bytes == peak_of(found.options) <= budget
    assert 0 < found.gap < 0.005 and found.value == pytest.approx(found.most * (1 - found.gap))
    assert found.states <= 50 * 40 * (programme.STATES + 512)


def test_a_gap_is_told_rounded_up():
    assert [_percent(share) for share in (0.00012345, 0.003, 0.0123, 0.5, 1e-9)] == ["0.013", "0.30", "1.3", "50", "0.00000010"]
    assert Chosen((), 0, 2.0, 0, 0.0, 2.0).exact and Chosen((), 0, 2.0, 0, 0.0, 2.5).gap == pytest.approx(0.2)


def test_the_sentence_says_exact_only_where_that_is_proved():
    layers = random_layers(1, 5, 5, 1000)
    found = choose(layers, 3000)
    told = [_how_good(SimpleNamespace(chosen=replace(found, most=most), setting=SimpleNamespace(batch=8))) for most in (found.value, found.value / 0.99)]
    assert found.exact and "the choice is exact" in told[0] and "with 8 samples at a time" in told[0]
    assert "exact, on" not in told[1] and re.search(r"within 1\.[01] % of the best possible", told[1])


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_never_over_the_budget_in_random_ones(count):
    rng = np.random.default_rng(7)
    for seed in range(count):
        depth, scale = int(rng.integers(1, 9)), int(rng.choice([5, 1000, 10**8]))
        layers = random_layers(seed, depth, 5, scale)
        budget = int(rng.integers(0, 2 * scale * depth))
        found = choose(layers, budget)
        least = smallest(layers)
        assert (found is not None) == (least.peak_bytes <= budget)
        assert found is None or peak_of(found.options) == found.peak_bytes <= budget


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_more_memory_never_gains_less(seed, depth):
    layers = random_layers(seed, depth, 5, 1000)
    top = sum(max(o.saved_bytes + o.persistent_bytes + o.transient_bytes for o in options) for options in layers)
    found = [choose(layers, int(budget)) for budget in np.linspace(0, top, 25)]
    values = [-1.0 if c is None else c.value for c in found]
    assert values == sorted(values)
    drawn = curve(layers, [int(b) for b in np.linspace(0, top, 25)])
    assert all(c.peak_bytes <= top for c in drawn) and [c.value for c in drawn] == sorted({c.value for c in drawn})


def test_a_byte_too_few_is_too_few():
    layers = random_layers(3, 5, 4, 10**6)
    least = smallest(layers, 1000)
    assert choose(layers, least.peak_bytes - 1, 1000) is None
    assert choose(layers, least.peak_bytes, 1000).peak_bytes == least.peak_bytes


def test_a_net_of_fifty_layers_is_chosen_exactly():
    """Sizes as of a MobileNetV2 at 96 x 96: the relaxation's bound is met within the last option that does not fit."""
    rng = np.random.default_rng(0)
    layers = []
    for i in range(53):
        size, norm = int(4 * 10 ** rng.uniform(3.5, 5.5)), float(10 ** rng.uniform(-2, 0))
        options = [Option(Choice(f"l{i}", "freeze"), 0, size // 32, 0, 0, size)]
        options += [Option(Choice(f"l{i}", "fixed", eps), norm * cos, int(size * share), size // 9, 0, 2 * size, 0, size)
                    for eps, cos, share in ((0.6, 0.6, 0.08), (0.8, 0.8, 0.15), (0.9, 0.9, 0.3), (0.95, 0.95, 0.5), (0.99, 0.99, 0.9))]  # fmt: skip
        options += [Option(Choice(f"l{i}", "adapter", 0.8), norm * 0.7, int(size * 0.2), size // 9, size // 50, size)]
        layers.append([*options, Option(Choice(f"l{i}", "exact"), norm, size + size // 32, 0, 0, 2 * size, 0, size)])
    everything = peak_of([options[-1] for options in layers])
    found = choose(layers, everything // 2)
    assert found is not None and found.peak_bytes <= everything // 2
    assert 0.99 * found.value < choose(layers, everything // 2, quick=True).value <= found.value
    assert found.value < choose(layers, everything).value == pytest.approx(sum(o[-1].value for o in layers))


def test_a_layer_without_a_freezing_option_trains():
    for seed in range(30):
        layers = random_layers(seed, 5, 4, 100)
        layers[2] = layers[2][1:]
        best, least = by_hand(layers, 400, 0, (0,) * 5, 0)
        found = choose(layers, 400)
        assert (None if found is None else found.value) == best
        assert found is None or (found.start <= 2 and found.options[2].trains)
        assert smallest(layers).peak_bytes == least


def test_options_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="at most the first"):
        choose([[Option(Choice("a", "exact")), Option(Choice("a", "freeze"))]], 10)
    with pytest.raises(ValueError, match="at most the first"):
        choose([[]], 10)
    with pytest.raises(ValueError, match="no layer has an option that trains"):
        smallest([[Option(Choice("a", "freeze"))]])
