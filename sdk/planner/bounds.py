"""The fewest bytes that a step can live in, whatever the placement. Also the measure the schedule search minimises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from sdk.planner.lifetimes import lifetimes, overlaps
from sdk.planner.problem import Problem

_MOST_SUBSETS_OF = 4  # beyond this many overlappable inputs, all of them at once bounds every subset


def round_up(value: int, alignment: int) -> int:
    """The least multiple of `alignment` that is not below `value`."""
    return -(-value // alignment) * alignment


def union_bytes(output: int, inputs: Sequence[tuple[int, int]]) -> int:
    """Fewest bytes that an output of `output` bytes and inputs (size, distance), all sharing bytes with it, take together.

    The inputs are all alive, so they lie one behind the other; the lowest starts at least its distance behind the output.
    >>> union_bytes(100, [(80, 30)])
    110
    """
    reach = min(max(0, distance) for _, distance in inputs)
    return max(output, reach + sum(size for size, _ in inputs))


def saving(output: int, inputs: Sequence[tuple[int, int]]) -> int:
    """Most bytes that sharing can save at one step: `output` and its dying inputs, each (size, distance)."""
    if not inputs:
        return 0
    if len(inputs) > _MOST_SUBSETS_OF:
        return max(0, output + sum(size for size, _ in inputs) - union_bytes(output, inputs))
    best = 0
    for count in range(1, len(inputs) + 1):
        for subset in combinations(inputs, count):
            best = max(best, output + sum(size for size, _ in subset) - union_bytes(output, subset))
    return best


def aligned_sum(sizes: Iterable[int], alignment: int) -> int:
    """Fewest bytes for disjoint buffers that start at multiples of `alignment`: all but one are rounded up."""
    total = slack = 0
    for size in sizes:
        rounded = round_up(size, alignment)
        total += rounded
        slack = max(slack, rounded - size)
    return total - slack


def fewest_bytes(output: int, shared: Sequence[tuple[int, int]], others: Sequence[int], alignment: int) -> int:
    """Fewest bytes for an output, dying inputs (size, distance) that may share bytes with it, and buffers apart from both.

    Offsets are multiples of `alignment`, so distances are too.
    >>> fewest_bytes(100, [(80, 30)], [10], 4)
    122
    """
    least = aligned_sum([output, *(size for size, _ in shared), *others], alignment)
    counts = range(1, len(shared) + 1) if len(shared) <= _MOST_SUBSETS_OF else range(len(shared), len(shared) + 1)
    for count in counts:
        for subset in combinations(range(len(shared)), count):
            inside = [(shared[i][0], round_up(shared[i][1], alignment)) for i in subset]
            apart = [shared[i][0] for i in range(len(shared)) if i not in subset]
            least = min(least, aligned_sum([union_bytes(output, inside), *apart, *others], alignment))
    return least


def step_bounds(problem: Problem, alignment: int = 4) -> list[int]:
    """For each step, bytes that no placement in one region can avoid there.

    What is alive at the step lies side by side, except that inputs which die there may share bytes with the output as far
    as the kernel's distances allow. The arena is never below the largest of these; it may have to be above it, since a buffer
    keeps its place from one step to the next.
    """
    spans = lifetimes(problem)
    pairs = overlaps(problem, spans)
    alive: list[list[str]] = [[] for _ in problem.steps]
    for span in spans.values():
        for n in range(span.first, min(span.last + 1, len(alive))):
            alive[n].append(span.name)
    shared: dict[str, list[str]] = {}
    for name, made in pairs:
        shared.setdefault(made, []).append(name)
    bounds = []
    for n, step in enumerate(problem.steps):
        made = step.writes[0] if step.writes else ""
        inputs = shared.get(made, [])
        others = [spans[name].size_bytes for name in alive[n] if name != made and name not in inputs]
        with_distance = [(spans[name].size_bytes, pairs[name, made]) for name in inputs]
        bounds.append(fewest_bytes(problem.sizes.get(made, 0), with_distance, others, alignment))
    return bounds


def lower_bound(problem: Problem, alignment: int = 4) -> int:
    """Bytes below which no arena of this order of steps can be: the largest of `step_bounds`, and every single buffer."""
    used = {name for step in problem.steps for name in (*step.reads, *step.writes)} | set(problem.inputs) | set(problem.outputs)
    return max([0, *step_bounds(problem, alignment), *(problem.sizes[name] for name in used)])
