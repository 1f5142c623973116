"""The order of steps: the lowest peak there is on small graphs, never worse than the order given, bounded work."""

from __future__ import annotations

import random
from itertools import permutations

from hypothesis import given, settings

from sdk.planner.bounds import lower_bound, step_bounds
from sdk.planner.problem import Problem, Step, from_graph
from sdk.planner.schedule import best_order
from tests.planner_graphs import models


def legal(problem: Problem, order) -> bool:
    """True when every step runs after those that write what it reads."""
    made = set(problem.inputs) | problem.pinned
    for n in order:
        if not set(problem.steps[n].reads) <= made:
            return False
        made |= set(problem.steps[n].writes)
    return True


def peak(problem: Problem, order) -> int:
    """The measure the search minimises, from the independent per-step bounds without rounding."""
    return max(step_bounds(problem.reordered(order), 1), default=0)


@settings(max_examples=80, deadline=None)
@given(models.map(lambda m: from_graph(*m)).filter(lambda p: 2 <= len(p.steps) <= 7))
def test_the_order_is_the_best_of_all(problem):
    found = best_order(problem)
    assert found.exact and legal(problem, found.order)
    every = [o for o in permutations(range(len(problem.steps))) if legal(problem, o)]
    assert peak(problem, found.order) == min(peak(problem, o) for o in every)
    assert peak(problem, range(len(problem.steps))) == found.given_peak_bytes


@settings(max_examples=60, deadline=None)
@given(models.map(lambda m: from_graph(*m)))
def test_with_hardly_any_work_allowed_it_is_never_worse_than_given(problem):
    found = best_order(problem, most_states=2, beam=2)
    assert sorted(found.order) == list(range(len(problem.steps))) and legal(problem, found.order)
    assert found.peak_bytes <= found.given_peak_bytes
    assert peak(problem, found.order) <= peak(problem, range(len(problem.steps)))


def test_a_fat_branch_is_finished_before_the_other_begins():
    """Two branches that swell and shrink: run one by one they need 2,100 bytes, side by side 4,000 or more."""
    steps, sizes = [Step("in", ("x",), ("s",))], {"x": 100, "s": 100, "out": 10}
    for level in range(2):  # breadth first, as an exporter may write them
        for b in "ab":
            sizes[f"{b}0"], sizes[f"{b}1"] = 2000, 10
            steps.append(Step(f"{b}{level}", ("s",) if level == 0 else (f"{b}0",), (f"{b}{level}",)))
    steps.append(Step("join", ("a1", "b1"), ("out",)))
    problem = Problem(tuple(steps), sizes, ("x",), ("out",))
    found = best_order(problem)
    assert found.given_peak_bytes == 4100 and found.peak_bytes == 2110
    assert lower_bound(problem.reordered(found.order), 1) == 2110


def test_a_chain_and_an_already_best_order_stay_as_they_are():
    steps = tuple(Step(f"n{i}", (f"t{i}",), (f"t{i + 1}",)) for i in range(30))
    problem = Problem(steps, {f"t{i}": 100 + i for i in range(31)}, ("t0",), ("t30",))
    assert best_order(problem).order == tuple(range(30))


def wide(branches: int, depth: int) -> Problem:
    """`branches` chains of `depth` steps between one source and one join: (depth + 1) ** branches downsets."""
    dice = random.Random(7)
    steps, sizes = [], {"x": 50, "out": 1}
    for level in range(depth):
        for b in range(branches):
            sizes[f"{b}.{level}"] = dice.randrange(1, 1000)
            steps.append(Step(f"{b}.{level}", (f"{b}.{level - 1}" if level else "x",), (f"{b}.{level}",)))
    steps.append(Step("join", tuple(f"{b}.{depth - 1}" for b in range(branches)), ("out",)))
    return Problem(tuple(steps), sizes, ("x",), ("out",))


def test_a_graph_too_wide_for_the_exact_search_still_gets_a_better_order():
    problem = wide(10, 6)
    found = best_order(problem, most_states=3000)
    assert not found.exact and legal(problem, found.order)
    assert found.peak_bytes < found.given_peak_bytes
    assert peak(problem, found.order) == found.peak_bytes
    assert best_order(problem, most_states=3000) == found


def test_states_keep_their_readers_and_writers_in_order():
    """A state that is read and then written must not be written first."""
    steps = (Step("read", ("state", "x"), ("y",)), Step("write", ("x",), ("state",)), Step("use", ("y",), ("z",)))
    problem = Problem(steps, {"state": 8, "x": 900, "y": 800, "z": 8}, ("x",), ("z",), frozenset({"state"}))
    order = best_order(problem).order
    assert order.index(0) < order.index(1)
