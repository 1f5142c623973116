"""When each buffer holds bytes that somebody still needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdk.planner.problem import Problem

#: Put before a step's name to name its scratch buffer; no tensor name starts with it.
SCRATCH = "\x00scratch:"


@dataclass(frozen=True)
class Span:
    """A buffer that must stay untouched from step `first` to step `last`, both included."""

    name: str
    size_bytes: int
    first: int
    last: int
    pinned: bool = False

    def meets(self, other: Span) -> bool:
        """True when both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(problem: Problem) -> dict[str, Span]:
    """Name -> span of every buffer, and of every step's scratch under `SCRATCH + step`.

    Inputs are alive from step 0 (the caller writes them before), outputs to the last step (the caller reads them after).
    An output that nothing reads is alive at the step that writes it.
    """
    end = max(len(problem.steps) - 1, 0)
    first = dict.fromkeys(problem.inputs, 0)
    last = dict(first)
    for n, step in enumerate(problem.steps):
        for name in (*step.reads, *step.writes):
            first.setdefault(name, n)
            last[name] = n
    for name in problem.outputs:
        first.setdefault(name, 0)
        last[name] = end
    for name in problem.pinned:
        first[name], last[name] = 0, end
    spans = {name: Span(name, problem.sizes[name], first[name], last[name], name in problem.pinned) for name in first}
    for n, step in enumerate(problem.steps):
        if step.scratch_bytes > 0:
            spans[SCRATCH + step.name] = Span(SCRATCH + step.name, step.scratch_bytes, n, n)
    return spans


def overlaps(problem: Problem, spans: Mapping[str, Span]) -> dict[tuple[str, str], int]:
    """(input, output) -> least distance, for every pair that may share bytes: the input dies at the step that makes the output."""
    outputs = set(problem.outputs)
    pairs: dict[tuple[str, str], int] = {}
    for n, step in enumerate(problem.steps):
        for name, distance in step.overlap.items():
            span, made = spans[name], spans[step.writes[0]]
            if span.last == n and made.first == n and name not in outputs and not span.pinned and not made.pinned and name != made.name:
                pairs[name, made.name] = distance
    return pairs
