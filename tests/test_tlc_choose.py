"""The dynamic programme against every combination there is, and the paper's greedy rule on known gaps."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import DoesNotFit, UsageError
from sdk.prepare.tlc import choose as module
from sdk.prepare.tlc.choose import Option, best_ways, choose, crossing_set


@st.composite
def networks(draw):
    """(options, end): every position can be had as it is; some stretches in other ways."""
    end = draw(st.integers(1, 5))
    number = st.integers(0, 12)
    options = [Option(i, i + 1, draw(st.integers(1, 12)), draw(st.integers(1, 12))) for i in range(end)]
    for n in range(draw(st.integers(0, 8))):
        first = draw(st.integers(0, end - 1))
        last = draw(st.integers(first + 1, end))
        removes = tuple(f"{n}.{i}" for i in range(draw(st.integers(1, 3))))
        options.append(Option(first, last, draw(number), draw(number), draw(number), removes, "m"))
    return options, end


def paths(options, end, place=0):
    """Every way from `place` to `end`."""
    if place == end:
        yield ()
    for option in options:
        if option.first == place:
            for rest in paths(options, end, option.last):
                yield (option, *rest)


BUDGET = st.one_of(st.none(), st.integers(0, 30))


@settings(max_examples=150, deadline=None)
@given(network=networks(), latency=BUDGET, peak=BUDGET, removed=st.one_of(st.none(), st.integers(0, 5)))
def test_the_choice_is_the_best_of_all_combinations(network, latency, peak, removed):
    options, end = network
    fitting = [
        (sum(o.loss for o in path), sum(o.latency_s for o in path))
        for path in paths(options, end)
        if (latency is None or sum(o.latency_s for o in path) <= latency)
        and (peak is None or max(o.peak_bytes for o in path) <= peak)
        and sum(len(o.removes) for o in path) >= (removed or 0)
    ]
    if not fitting:
        with pytest.raises(DoesNotFit, match="no choice of layers"):
            choose(options, latency, peak, removed)
        return
    found = choose(options, latency, peak, removed)
    assert (found.loss, found.latency_s) == min(fitting)
    assert len(found.removes) >= (removed or 0)
    assert peak is None or found.peak_bytes <= peak
    assert [o.last for o in found.options[:-1]] == [o.first for o in found.options[1:]]


@settings(max_examples=60, deadline=None)
@given(network=networks())
def test_a_way_that_is_beaten_is_never_kept_and_none_better_is_lost(network):
    options, _ = network
    kept = {option for ways in best_ways(options).values() for option in ways}
    for option in options:
        same = [o for o in kept if (o.first, o.last) == (option.first, option.last)]
        assert any(module._beats(other, option) for other in same)
    for a, b in product(kept, kept):
        assert a == b or (a.first, a.last) != (b.first, b.last) or not module._beats(a, b)


def test_the_refusal_names_the_best_there_is():
    options = [Option(0, 1, 2.0, 100), Option(0, 1, 1.0, 60, 0.5, ("a",), "m"), Option(1, 2, 3.0, 80)]
    with pytest.raises(DoesNotFit, match=r"no choice of layers takes .* ms; the fastest takes 4000 ms"):
        choose(options, latency_s=3.5)
    with pytest.raises(DoesNotFit, match="70 bytes of peak RAM; the smallest needs 80"):
        choose(options, peak_bytes=70)
    with pytest.raises(DoesNotFit, match="removes 2 activations"):
        choose(options, removed=2)
    with pytest.raises(UsageError, match="do not join"):
        choose([Option(1, 2, 1.0, 1)])
    with pytest.raises(UsageError, match="holds nothing"):
        Option(1, 1, 0.0, 0)


def test_many_states_are_thinned_and_the_budget_still_holds(monkeypatch):
    monkeypatch.setattr(module, "MOST_STATES", 64)
    options = [Option(i, i + 1, 1.0 + 0.013 * i, 1) for i in range(30)]
    options += [Option(i, i + 1, 0.31 + 0.007 * i, 1, 0.1 + 0.017 * (7 * i % 11), (str(i),), "m") for i in range(30)]
    thin = choose(options, latency_s=25.0)
    monkeypatch.setattr(module, "MOST_STATES", 10**6)
    exact = choose(options, latency_s=25.0)
    assert thin.latency_s <= 25.0
    assert exact.loss <= thin.loss <= 1.25 * exact.loss


def test_the_greedy_rule_takes_the_set_that_crosses():
    gaps = {"a": -0.2, "b": -0.1, "c": 0.3, "d": 0.9}
    joint = {2: -0.25, 3: 0.05, 4: 1.0}
    assert crossing_set(gaps, lambda sites: joint[len(sites)]) == ("a", "b", "c")
    assert crossing_set(gaps, lambda sites: -1.0) == ("a",)
    assert crossing_set({"c": 0.3, "d": 0.9}, lambda sites: 1 / 0) == ("c",)
    with pytest.raises(UsageError, match="no activation is left"):
        crossing_set({}, lambda sites: 0.0)
