"""Search within a budget: always within it, as good as what was tried otherwise, a sentence where nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import DoesNotFit, UsageError
from sdk.prepare.moofa.budget import Budget, as_budget, first_fit, leanest, smallest_budget
from sdk.prepare.moofa.ladders import MOOFA, OFA
from sdk.prepare.moofa.predictor import features
from sdk.prepare.moofa.search import Evolution, _Hunt, crossover, evolve, moves, mutant, random_search
from sdk.prepare.moofa.space import Ladder, Subnet, check, largest, smallest
from tests.moofa_space import MadeUpAccuracy, MadeUpCost, MadeUpCosts, draws

SMALL = replace(MOOFA, name="little", stages=(16, 24), strides=(1, 2, 2), activations=("relu",) * 3, squeeze=(False,) * 3, depths=(1, 2), resolutions=(24, 32))
QUICK = Evolution(population=8, rounds=3, exchanges=2)
TINY = replace(SMALL, name="tiny", kernels=(3, 5), expansions=(2, 4), depths=(1, 2), resolutions=(28, 32))


@cache
def every() -> dict[tuple, tuple[Subnet, MadeUpCost]]:
    """All networks of TINY with their costs, by key."""
    nets = {net.key(TINY): net for net in draws(TINY, 20_000, 5)}
    assert len(nets) == 2 * (4 + 16) ** 2
    return {key: (net, MadeUpCosts(TINY)(net)) for key, net in nets.items()}


@dataclass(frozen=True)
class Linear:
    """A score that each choice adds to by itself, so that optima are known exactly."""

    ladder: Ladder
    weights: np.ndarray

    def score(self, nets: Sequence[Subnet]) -> np.ndarray:
        return features(self.ladder, nets) @ self.weights


def predictor(ladder: Ladder, seed: int = 0, count: int = 150) -> Linear:
    """The ridge on one-hots alone, of made-up measurements."""
    accuracy, nets = MadeUpAccuracy(ladder, noise=0.002, seed=seed), draws(ladder, count, seed)
    x = features(ladder, nets)
    return Linear(ladder, np.linalg.solve(x.T @ x + 0.3 * np.eye(x.shape[1]), x.T @ accuracy.many(nets)))


def best_of_a_peak(ladder: Ladder, made: Linear, limit: int) -> float:
    """The best score under a limit of arena alone, exactly: a maximum over blocks leaves each slot its own choice."""
    costs, step, best = MadeUpCosts(ladder), len(ladder.kernels) + len(ladder.expansions), -np.inf
    for side in ladder.resolutions:
        base = replace(smallest(ladder), resolution=side)
        if costs(base).arena_bytes > limit:
            continue
        total = made.weights[ladder.slots * step + ladder.resolutions.index(side)]
        deep = replace(base, depths=(ladder.depths[-1],) * len(ladder.stages))
        worth = []
        for slot in range(ladder.slots):
            kinds = [(made.weights[slot * step + i] + made.weights[slot * step + len(ladder.kernels) + j], one_slot(deep, slot, k, e))
                     for i, k in enumerate(ladder.kernels) for j, e in enumerate(ladder.expansions)]  # fmt: skip
            worth.append(max((w for w, net in kinds if costs(net).arena_bytes <= limit), default=-np.inf))
        deepest = ladder.depths[-1]
        best = max(best, total + sum(max(sum(worth[s : s + d]) for d in ladder.depths) for s in range(0, ladder.slots, deepest)))
    return float(best)


def one_slot(net: Subnet, slot: int, kernel: int, expansion: float) -> Subnet:
    kernels, expansions = ((*old[:slot], new, *old[slot + 1 :]) for old, new in ((net.kernels, kernel), (net.expansions, expansion)))
    return replace(net, kernels=kernels, expansions=expansions)


LONG = [pytest.param(ladder, limit, marks=pytest.mark.long) for ladder, limit in ((OFA, 800_000), (MOOFA, 325_000), (MOOFA, 400_000))]


@pytest.mark.parametrize(("ladder", "limit"), [(OFA, 325_000), *LONG], ids=lambda v: getattr(v, "name", v))
def test_a_limit_of_arena_alone_is_searched_to_the_exact_optimum(ladder, limit):
    made, budget = predictor(ladder), Budget(arena_bytes=limit)
    costs = MadeUpCosts(ladder)
    found = evolve(ladder, made.score, costs, budget)
    assert costs.asked < 15_000, "a search of seconds prices some thousands of subnets"
    assert all(budget.allows(MadeUpCosts(ladder)(f.subnet)) and f.cost == MadeUpCosts(ladder)(f.subnet) for f in found)
    assert len({f.subnet.key(ladder) for f in found}) == len(found) == 40
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    assert found[0].score == pytest.approx(best_of_a_peak(ladder, made, limit), abs=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("ladder", [OFA, MOOFA], ids=lambda ladder: ladder.name)
def test_several_limits_are_kept_and_20000_random_draws_find_nothing_better(ladder):
    made, costs = predictor(ladder, 1), MadeUpCosts(ladder)
    budget = Budget(arena_bytes=500_000, flash_bytes=4_500_000, macs=3e8, latency_ms=2800, training_bytes=1_450_000)
    found = evolve(ladder, made.score, costs, budget)
    assert all(budget.allows(costs(f.subnet)) for f in found)
    drawn = random_search(ladder, made.score, costs, budget, 20_000)
    assert drawn is not None and budget.allows(drawn.cost)
    assert found[0].score >= drawn.score
    true = MadeUpAccuracy(ladder, seed=1)
    assert true(found[0].subnet) >= true(drawn.subnet) - 0.003, "and in what is true, not only in what is predicted"


def test_a_wider_budget_is_never_worse():
    made, costs, start, last = predictor(SMALL, 2), MadeUpCosts(SMALL), [], -np.inf
    for limit in (25_000, 28_000, 32_000, 36_000):
        found = evolve(SMALL, made.score, costs, Budget(arena_bytes=limit), QUICK, start)
        assert found[0].score >= last
        start, last = [found[0].subnet], found[0].score


def test_the_same_seed_finds_the_same_and_start_is_kept_only_within_the_budget():
    made, costs, budget = predictor(SMALL, 3, 60), MadeUpCosts(SMALL), Budget(macs=2e6)
    assert evolve(SMALL, made.score, costs, budget, QUICK) == evolve(SMALL, made.score, costs, budget, QUICK)
    found = evolve(SMALL, made.score, costs, budget, QUICK, start=[largest(SMALL)])
    assert not budget.allows(costs(largest(SMALL)))
    assert all(f.subnet.key(SMALL) != largest(SMALL).key(SMALL) for f in found)
    assert len(evolve(SMALL, made.score, costs, budget, QUICK, count=3)) == 3


def test_every_subnet_of_a_small_space_is_beaten_or_equalled():
    """All 800 networks are priced and scored: the search finds the best of them under sums and a peak."""
    made, costs = predictor(TINY, 4, 60), MadeUpCosts(TINY)
    prices, scores = {k: c for k, (_, c) in every().items()}, dict(zip(every(), made.score([n for n, _ in every().values()]), strict=True))
    for share in (0.3, 0.5, 0.7):
        limits = {name: np.quantile([getattr(p, name) for p in prices.values()], share) for name in ("arena_bytes", "flash_bytes", "macs")}
        budget = Budget(int(limits["arena_bytes"]), int(limits["flash_bytes"]), macs=float(limits["macs"]))
        best = max(scores[k] for k, p in prices.items() if budget.allows(p))
        assert evolve(TINY, made.score, costs, budget)[0].score == pytest.approx(best)


def test_where_no_move_leads_up_one_out_of_the_budget_and_back_does():
    made, costs = predictor(TINY, 4, 60), MadeUpCosts(TINY)
    work = [cost.macs for _, cost in every().values()]
    best = {}
    for share in np.linspace(0.2, 0.8, 7):
        budget = Budget(macs=float(np.quantile(work, share)))
        for exchanges in (0, 12):
            found = evolve(TINY, made.score, costs, budget, Evolution(population=2, rounds=0, exchanges=exchanges))
            best[share, exchanges] = found[0].score
    gains = [best[share, 12] - best[share, 0] for share in np.linspace(0.2, 0.8, 7)]
    assert min(gains) >= 0 and max(gains) > 0


def test_every_side_of_the_picture_has_parents():
    hunt = _Hunt(MOOFA, lambda nets: np.array([net.resolution for net in nets]) * 1.0, MadeUpCosts(MOOFA), Budget(macs=1e12), Evolution())
    nets = draws(MOOFA, 200, 7)
    assert all(hunt.fits(net) for net in nets)
    parents = hunt.parents(hunt.judge(nets))
    assert {f.subnet.resolution for f in parents} == {128, 160, 192, 224} and len(parents) == 8


def test_moves_reach_each_slot_depth_and_side_once_and_stay_in_the_space():
    net = draws(MOOFA, 1, 6)[0]
    reached = [check(MOOFA, moved) for moved in moves(MOOFA, net)]
    keys = {moved.key(MOOFA) for moved in reached}
    assert net.key(MOOFA) not in keys and len(keys) == len(reached)
    deeper = sum(9 for depth in net.depths for other in (2, 3, 4) if other > depth)
    assert len(reached) == 8 * sum(net.depths) + deeper + sum(1 for depth in net.depths for other in (2, 3, 4) if other < depth) + 3


@given(st.integers(0, 10_000))
def test_children_are_made_of_their_parents_and_lie_in_the_space(seed):
    from random import Random

    one, other = draws(OFA, 2, seed)
    child = check(OFA, crossover(one, other, Random(seed)))
    assert all(c in pair for c, *pair in zip(child.kernels, one.kernels, other.kernels, strict=True))
    assert child.resolution in (one.resolution, other.resolution)
    assert mutant(OFA, one, Evolution(change=0, change_side=0), Random(seed)) == one
    changed = check(OFA, mutant(OFA, one, Evolution(change=0.1), Random(seed)))
    assert sum(a != b for a, b in zip(changed.kernels, one.kernels, strict=True)) < 12


def test_what_fits_nothing_is_said_before_any_search_with_the_smallest_that_fits():
    costs = MadeUpCosts(OFA)
    with pytest.raises(DoesNotFit) as caught:
        evolve(OFA, lambda nets: pytest.fail("nothing was to be scored"), costs, Budget(arena_bytes="100KiB", macs=2e8))
    least = costs(smallest(OFA))
    assert str(caught.value) == (
        f"no subnet of ofa fits arena 102,400 bytes: the smallest needs arena {least.arena_bytes:,} bytes, work {least.macs:,} MACs; "
        f"give a budget of at least arena_bytes={least.arena_bytes}, macs={least.macs}, or another supernet"
    )
    assert costs.asked < 500


def test_the_smallest_budget_is_the_given_one_or_the_least_that_a_subnet_meets():
    costs = MadeUpCosts(OFA)
    assert smallest_budget(OFA, costs, Budget(macs=2e9)) == Budget(macs=2e9)
    tight = smallest_budget(OFA, costs, Budget(arena_bytes=1000, latency_ms=0.001))
    assert first_fit(OFA, costs, tight) == smallest(OFA)
    assert tight.arena_bytes == costs(smallest(OFA)).arena_bytes
    assert 0 <= tight.latency_ms - costs(smallest(OFA)).latency_ms <= 0.01
    with pytest.raises(DoesNotFit, match="latency"):
        first_fit(OFA, costs, replace(tight, latency_ms=tight.latency_ms - 0.02))


def test_the_leanest_subnet_is_found_where_a_larger_kernel_costs_less():
    """As where a layer of another size is planned another way."""

    def odd(net: Subnet) -> MadeUpCost:
        cost = MadeUpCosts(SMALL)(net)
        return replace(cost, arena_bytes=cost.arena_bytes - 3000 * net.kernels[:2].count(5) + 2000 * (net.resolution == 24))

    lean = leanest(SMALL, odd, Budget(arena_bytes=1))
    assert lean.kernels[0] == 5
    assert odd(lean).arena_bytes < odd(smallest(SMALL)).arena_bytes
    budget = Budget(arena_bytes=odd(lean).arena_bytes)
    assert evolve(SMALL, lambda nets: np.zeros(len(nets)), odd, budget, QUICK)


def test_budgets_read_what_people_write():
    assert Budget(arena_bytes="64KiB", flash_bytes="0.5 MiB").limits == {"arena_bytes": 65536, "flash_bytes": 524288}
    assert as_budget("64KiB") == as_budget(65536) == as_budget({"arena_bytes": 65536}) == as_budget(Budget("64 kib"))
    assert str(Budget(arena_bytes=65536, latency_ms=20, macs=1e6)) == "arena 65,536 bytes, work 1,000,000 MACs, latency 20.00 ms"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Budget(), "a budget limits nothing; give at least one of arena_bytes, flash_bytes, training_bytes, macs, latency_ms"),
        (lambda: Budget(macs=-1), "a budget of macs=-1 is not possible"),
        (lambda: Budget(latency_ms=float("nan")), "a budget of latency_ms=nan is not possible"),
        (lambda: Budget(arena_bytes="plenty"), "'plenty' cannot be read"),
        (lambda: as_budget({"ram": 3}), "a budget has no limit 'ram'; choose from arena_bytes"),
        (lambda: Evolution(population=1), "evolution of 1 subnets"),
        (lambda: Evolution(change=2), "evolution's change of 2 is not possible"),
    ],
)  # fmt: skip
def test_bad_budgets_and_settings_are_refused(make, sentence):
    with pytest.raises(UsageError, match=sentence):
        make()


def test_a_limit_on_what_was_not_computed_is_refused():
    with pytest.raises(UsageError, match="limits training_bytes, which was not computed for this device"):
        evolve(SMALL, lambda nets: np.zeros(len(nets)), lambda net: replace(MadeUpCosts(SMALL)(net), training_bytes=None), Budget(training_bytes=10**6))


def test_random_search_says_none_where_chance_finds_nothing():
    assert random_search(MOOFA, lambda nets: np.zeros(len(nets)), MadeUpCosts(MOOFA), Budget(arena_bytes=300_000), 500) is None


@settings(max_examples=25)
@given(st.floats(0.5, 1.1), st.floats(0.5, 1.1), st.floats(0.5, 1.1))
def test_whatever_the_budget_the_answer_is_within_it_or_nothing_is(arena, flash, work):
    median = {name: np.median([getattr(cost, name) for _, cost in every().values()]) for name in ("arena_bytes", "flash_bytes", "macs")}
    budget = Budget(int(arena * median["arena_bytes"]), int(flash * median["flash_bytes"]), macs=float(work * median["macs"]))
    allowed = {key for key, (_, cost) in every().items() if budget.allows(cost)}
    try:
        found = evolve(TINY, lambda nets: np.arange(len(nets)) * 1.0, MadeUpCosts(TINY), budget, Evolution(population=4, rounds=1, exchanges=1))
    except DoesNotFit:
        assert not allowed
    else:
        assert {f.subnet.key(TINY) for f in found} <= allowed
