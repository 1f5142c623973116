"""The fewest bytes that a step can live in, whatever the placement. Also the measure the schedule search minimises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    as the kernel's distances allow.
    """
    return [_bytes_at(step, step.shared, alignment) for step in _steps_alive(problem)]


@dataclass(frozen=True)
class _Alive:
    """What is alive at one step: the output, the inputs that may share bytes with it (name, size, distance), and the rest."""

    made: str
    made_bytes: int
    shared: tuple[tuple[str, int, int], ...]
    others: tuple[int, ...]


def _bytes_at(step: _Alive, shared: Sequence[tuple[str, int, int]], alignment: int) -> int:
    """Fewest bytes at a step when only the inputs in `shared` share bytes with the output."""
    apart = [size for name, size, _ in step.shared if all(name != other for other, _, _ in shared)]
    return fewest_bytes(step.made_bytes, [(size, d) for _, size, d in shared], [*step.others, *apart], alignment)


def _steps_alive(problem: Problem) -> list[_Alive]:
    spans = lifetimes(problem)
    pairs = overlaps(problem, spans)
    alive: list[list[str]] = [[] for _ in problem.steps]
    for span in spans.values():
        for n in range(span.first, min(span.last + 1, len(alive))):
            alive[n].append(span.name)
    inputs: dict[str, list[tuple[str, int, int]]] = {}
    for (name, made), distance in pairs.items():
        inputs.setdefault(made, []).append((name, spans[name].size_bytes, distance))
    rows = []
    for n, step in enumerate(problem.steps):
        made = step.writes[0] if step.writes else ""
        shared = tuple(inputs.get(made, ()))
        apart = {made, *(name for name, _, _ in shared)}
        others = tuple(spans[name].size_bytes for name in alive[n] if name not in apart)
        rows.append(_Alive(made, problem.sizes.get(made, 0), shared, others))
    return rows


def lower_bound(problem: Problem, alignment: int = 4) -> int:
    """Bytes below which no arena of this order of steps can be, in one region.

    It is at least the largest of `step_bounds`. Beyond that: in an arena of H bytes, an input and an output that do not fit
    side by side must share bytes, so the input lies at least its distance behind the output. Such distances add up along a
    chain of steps: the bound is the least H in which every buffer, pushed up by its chain, still ends below H.
    """
    alive = _steps_alive(problem)
    used = {name for step in problem.steps for name in (*step.reads, *step.writes)} | set(problem.inputs) | set(problem.outputs)
    low = max([0, *(_bytes_at(step, step.shared, alignment) for step in alive), *(problem.sizes[name] for name in used)])
    links = []  # (input, output, distance, fewest bytes of the step when these two lie apart), last step first
    for step in reversed(alive):
        for link in step.shared:
            without = _bytes_at(step, [other for other in step.shared if other != link], alignment)
            if without > low:
                links.append((link[0], step.made, round_up(link[2], alignment), without))
    high = max([low, *(without for *_, without in links)])
    while low < high:
        middle = (low + high) // 2
        if _chains_fit(problem, links, middle):
            high = middle
        else:
            low = middle + 1
    return low


def _chains_fit(problem: Problem, links: Sequence[tuple[str, str, int, int]], height: int) -> bool:
    """True when the offsets that links force in an arena of `height` bytes leave every buffer inside it."""
    offset: dict[str, int] = {}
    for name, made, distance, apart in links:
        if apart > height:
            offset[name] = max(offset.get(name, 0), offset.get(made, 0) + distance)
    return all(at + problem.sizes[name] <= height for name, at in offset.items())
