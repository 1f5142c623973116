"""Placement: no two live buffers share a byte, sizes near the bound, and a checker that refuses a broken plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdk.planner.bounds import lower_bound, step_bounds
from sdk.planner.check import PlacementError, check_placement
from sdk.planner.lifetimes import SCRATCH, lifetimes
from sdk.planner.placement import Layout, Region, make_rules, place, stack_up
from sdk.planner.problem import NoAsks, Problem, Step, from_graph
from tests.planner_graphs import chain, make_graph, models


@dataclass(frozen=True)
class Put:
    """A placement as the checker sees it."""

    tensor: str
    kind: str
    region: int
    offset: int
    size_bytes: int


def puts(problem: Problem, layout: Layout) -> list[Put]:
    """Every tensor's and every scratch's place."""
    spans = lifetimes(problem)
    out = []
    for tensor, buffer in problem.root.items():
        if buffer in layout.spots:
            spot = layout.spots[buffer]
            out.append(Put(tensor, "tensor", spot.region, spot.offset, problem.sizes[buffer]))
    for name, spot in layout.spots.items():
        if name.startswith(SCRATCH):
            out.append(Put(name.removeprefix(SCRATCH), "scratch", spot.region, spot.offset, spans[name].size_bytes))
    return out


ONE = [Region("ram", 1 << 20)]


@settings(max_examples=150, deadline=None)
@given(models, st.booleans(), st.sampled_from((1, 4, 16)))
def test_no_two_live_buffers_share_a_byte(model, keep_input, alignment):
    graph, calls = model
    problem = from_graph(graph, calls, keep_input=keep_input)
    layout = place(problem, ONE, alignment=alignment, work=600)
    assert all(spot.offset % alignment == 0 for spot in layout.spots.values())
    assert layout.lower_bound_bytes <= layout.arena_bytes[0]
    check_placement(graph, calls, puts(problem, layout), layout.arena_bytes, keep_input=keep_input)


@settings(max_examples=80, deadline=None)
@given(models, st.lists(st.integers(100, 700), min_size=2, max_size=4))
def test_several_regions_hold_what_they_are_given(model, sizes):
    graph, calls = model
    problem = from_graph(graph, calls)
    regions = [Region(f"r{i}", size) for i, size in enumerate(sizes)]
    layout = place(problem, regions, work=400)
    check_placement(graph, calls, puts(problem, layout), layout.arena_bytes)
    over = sum(max(0, used - region.size_bytes) for used, region in zip(layout.arena_bytes, regions, strict=True))
    assert over == layout.overflow_bytes


@settings(max_examples=150, deadline=None)
@given(models, st.data())
def test_a_broken_plan_is_refused(model, data):
    """Put one tensor on top of another that is alive with it, beyond what any kernel allows: the checker must see it."""
    graph, calls = model
    calls = {name: call and replace(call, overlap={}) for name, call in calls.items()}
    problem = from_graph(graph, calls)
    spans = {name: span for name, span in lifetimes(problem).items() if span.size_bytes}
    used = {name for step in problem.steps for name in step.reads} | set(problem.outputs)
    pairs = [(a, b) for a in spans for b in spans if a != b and spans[a].meets(spans[b]) and {a, b} <= used]
    assume(pairs)
    layout = place(problem, ONE, work=100)
    victim, thief = data.draw(st.sampled_from(pairs))
    shift = data.draw(st.integers(0, spans[victim].size_bytes - 1))
    moved = {**layout.spots, thief: replace(layout.spots[victim], offset=layout.spots[victim].offset + shift)}
    with pytest.raises(PlacementError):
        check_placement(graph, calls, puts(problem, replace(layout, spots=moved)), [1 << 21])


@pytest.mark.parametrize(("distance", "allowed"), [(40, True), (41, False)])
def test_the_checker_knows_the_distance(distance, allowed):
    graph = chain(100, 60)
    calls = {"n0": NoAsks(0, {0: distance})}
    placed = [Put("t0", "tensor", 0, 40, 100), Put("t1", "tensor", 0, 0, 60)]
    if allowed:
        check_placement(graph, calls, placed, [140])
    else:
        with pytest.raises(PlacementError, match="cannot write t1 at 0 while it reads t0 at 40"):
            check_placement(graph, calls, placed, [140])


def test_the_checker_refuses_a_tensor_outside_a_missing_one_and_a_short_one():
    graph, calls = chain(8, 8), {"n0": NoAsks()}
    good = [Put("t0", "tensor", 0, 0, 8), Put("t1", "tensor", 0, 8, 8)]
    check_placement(graph, calls, good, [16])
    with pytest.raises(PlacementError, match="ends at byte 16"):
        check_placement(graph, calls, good, [15])
    with pytest.raises(PlacementError, match="no place"):
        check_placement(graph, calls, good[:1], [16])
    with pytest.raises(PlacementError, match="was given 4"):
        check_placement(graph, calls, [good[0], replace(good[1], size_bytes=4)], [16])
    with pytest.raises(PlacementError, match="scratch"):
        check_placement(graph, {"n0": NoAsks(4)}, good, [16])


def test_the_checker_refuses_scratch_on_bytes_in_use():
    graph, calls = chain(8, 8), {"n0": NoAsks(4, {0: 0})}
    tensors = [Put("t0", "tensor", 0, 0, 8), Put("t1", "tensor", 0, 8, 8)]
    check_placement(graph, calls, [*tensors, Put("n0", "scratch", 0, 16, 4)], [20])
    with pytest.raises(PlacementError, match="the scratch of n0 lies on t0"):
        check_placement(graph, calls, [*tensors, Put("n0", "scratch", 0, 4, 4)], [20])
    with pytest.raises(PlacementError, match="writes t1 over its own scratch"):
        check_placement(graph, calls, [*tensors, Put("n0", "scratch", 0, 12, 4)], [20])


def test_distances_add_up_along_a_chain_and_so_does_the_bound():
    """Four equal buffers, each output at least 8 bytes before its input: no two fit side by side, so they climb 3 x 8 bytes."""
    problem = from_graph(chain(100, 100, 100, 100), {f"n{i}": NoAsks(0, {0: 8}) for i in range(3)})
    assert max(step_bounds(problem)) == 108 and lower_bound(problem) == 124
    layout = place(problem, ONE)
    assert layout.arena_bytes == (124,) and layout.optimal
    far = from_graph(chain(100, 100, 100), {f"n{i}": NoAsks(0, {0: 95}) for i in range(2)})
    assert lower_bound(far) == place(far, ONE).arena_bytes[0] == 200  # side by side is nearer than 2 x 96


def test_an_input_that_is_read_again_is_not_overwritten():
    graph = make_graph({"x": 16, "y": 16, "z": 16}, [("a", ("x",), ("y",)), ("b", ("x", "y"), ("z",))], ("x",), ("z",))
    calls = {"a": NoAsks(0, {0: 0}), "b": NoAsks(0, {0: 0, 1: 0})}
    layout = place(from_graph(graph, calls), ONE)
    assert layout.arena_bytes == (32,)
    on_top = [Put("x", "tensor", 0, 0, 16), Put("y", "tensor", 0, 0, 16), Put("z", "tensor", 0, 16, 16)]
    with pytest.raises(PlacementError, match="over its input x, which is read later"):
        check_placement(graph, calls, on_top, [64])


def test_in_place_chains_take_one_buffer():
    graph = chain(64, 64, 64, 64)
    calls = {f"n{i}": NoAsks(0, {0: 0}) for i in range(3)}
    assert place(from_graph(graph, calls), ONE).arena_bytes == (64,)
    assert place(from_graph(graph, calls, keep_input=True), ONE).arena_bytes == (128,)


def test_distance_is_used_to_the_byte():
    """A 3x3 convolution over 96 bytes, whose output may start one 12-byte row and a bit before its input."""
    graph, calls = chain(96, 96), {"n0": NoAsks(0, {0: 16})}
    layout = place(from_graph(graph, calls), ONE)
    assert layout.arena_bytes == (112,) and layout.optimal


def test_reshape_takes_no_bytes():
    sizes = {"x": 32, "y": 32, "z": 4}
    graph = make_graph(sizes, [("reshape", ("x",), ("y",)), ("b", ("y",), ("z",))], ("x",), ("z",))
    problem = from_graph(graph, {"reshape": None, "b": NoAsks()})
    assert problem.sizes == {"x": 32, "z": 4} and len(problem.steps) == 1
    assert place(problem, ONE).arena_bytes == (36,)


def small_problems():
    """Problems small enough to try every order of placing."""
    return models.map(lambda m: from_graph(*m)).filter(lambda p: 2 <= len(lifetimes(p)) <= 7)


@settings(max_examples=40, deadline=None)
@given(small_problems())
def test_small_problems_are_placed_as_well_as_by_trying_everything(problem):
    rules = make_rules(problem)
    best = min(stack_up(rules, order)[1] for order in permutations(range(len(rules.spans))))
    assert lower_bound(problem) <= best
    assert place(problem, ONE).arena_bytes[0] <= best


def test_hot_buffers_go_to_the_fast_memory_and_the_rest_behind():
    graph = chain(50, 600, 600, 40)
    problem = from_graph(graph, {f"n{i}": NoAsks() for i in range(3)})
    layout = place(problem, [Region("dtcm", 700), Region("axi", 4000)])
    assert layout.overflow_bytes == 0
    assert [layout.spots[f"t{i}"].region for i in range(4)].count(1) == 1
    assert place(problem, [Region("dtcm", 2000), Region("axi", 4000)]).arena_bytes == (1200, 0)


def test_what_does_not_fit_is_counted_to_the_byte():
    problem = from_graph(chain(600, 600), {"n0": NoAsks()})
    layout = place(problem, [Region("a", 500), Region("b", 700)])
    assert layout.overflow_bytes == 100
    assert place(problem, [Region("a", 1000)]).overflow_bytes == 200


def test_alignment_lets_the_last_buffer_end_anywhere():
    problem = from_graph(chain(640, 128, 8), {"n0": NoAsks(), "n1": NoAsks()})
    assert place(problem, ONE).arena_bytes == (768,)


def test_bounds_count_scratch_and_what_lives_on():
    steps = (Step("a", ("x",), ("y",), 10), Step("b", ("y", "x"), ("z",), 0, {"y": 0, "x": 0}))
    problem = Problem(steps, {"x": 100, "y": 100, "z": 100}, ("x",), ("z",))
    assert step_bounds(problem, 1) == [210, 200]
    assert place(problem, ONE, alignment=1).arena_bytes == (210,)


def test_the_same_problem_gets_the_same_offsets():
    problem = from_graph(chain(77, 310, 15, 220, 9), {f"n{i}": NoAsks(12) for i in range(4)})
    assert place(problem, ONE).spots == place(problem, ONE).spots
