"""A program made ready to learn: its frozen part, the part a gradient reaches, and the whole for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdk.training.nn import sections
from sdk.training.nn.learners import Learners
from sdk.training.nn.program import Step, TrainableProgram
from sdk.training.nn.recompute import block_run, block_step, blocks
from sdk.training.nn.rewrite import frozen_run, live_run, plain_run, widened
from sdk.training.nn.sections import Run, Section
from sdk.training.nn.subspace import merged
from sdk.training.nn.update import Updates

#: Samples that pass the frozen part at once: enough for speed, few enough that its maps count for little beside what is kept.
PREFIX_CHUNK = 8


class Engine:
    """`forward(x)` gives logits with a graph that reaches the trained layers, `infer(x)` logits without one.

    The frozen part runs without a graph, a few samples at a time. chunked: False where a value that it hands over has no batch axis of its own.
    """

    def __init__(self, program: TrainableProgram, learners: Learners, updates: Updates) -> None:
        self.program, self.updates = program, updates
        self._learners, self._plain, self._bases = learners.by_layer, frozenset(learners.plain), learners.bases
        self._values = {**updates.values, **learners.bases, **{key: _leaf(updates, key) for key in learners.plain}}
        live = sections.live_steps(program, learners.by_layer, learners.plain)
        names = {step.name for step in live}
        frozen = [step for step in program.steps if step.name not in names and step.kind != "scalar"]
        self.live_steps = tuple(live)
        self._anchor = torch.zeros((), requires_grad=True)
        self._live = self._with_graph(live, learners) if live else None
        gives = tuple(n for n in (self._live.reads if self._live else (program.output,)) if n != program.input)
        self._frozen = self._without_graph(_needed(frozen, gives), gives)
        self._whole = self._without_graph([s for s in program.steps if s.kind != "scalar"], (program.output,))
        axes = {step.name: step.batch_axis for step in program.steps}
        self._axes = {name: axes[name] for name in gives}
        self.chunked = program.batch is None and all(axis is not None for axis in self._axes.values())

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of samples [N, ...]."""
        given = self._handed_over(x)
        if self._live is None:
            return given[self.program.output]
        logits: Tensor = self._run(self._live, given, x.shape[0])[self.program.output]
        return logits

    def infer(self, x: Tensor, chunk: int = PREFIX_CHUNK) -> Tensor:
        """The same without a graph, `chunk` samples at a time."""
        with torch.no_grad():
            values, name = self.effective(), self.program.input
            parts = _filled(x, self.program.batch).split(self.program.batch or chunk)
            logits = [self._whole(sections.start(self.program, values, {name: part}, part.shape[0]))[self.program.output] for part in parts]
            return torch.cat(logits)[: x.shape[0]]

    def effective(self) -> dict[str, Tensor]:
        """{key: value} of all that learns, adapters merged into their weights."""
        values = {key: value for key, value in self.updates.values.items() if not key.endswith("#c")} | self._bases
        for name, learner in self._learners.items():
            if learner.adapter is not None and learner.basis is not None:
                key = self.program.by_name[name].weight
                weight, p = widened(self.program.values[key]), widened(values.pop(learner.adapter))
                values[key] = merged(weight, p, learner.basis.tensor()).reshape(self.program.values[key].shape)
        return values

    def _handed_over(self, x: Tensor) -> dict[str, Tensor]:
        """What the frozen part gives the live one, the input among it where it is read there."""
        own = {self.program.input: x} if self._live is not None and self.program.input in self._live.reads else {}
        if not self._frozen.gives:
            return own
        with torch.no_grad():
            if not self.chunked or x.shape[0] <= PREFIX_CHUNK:
                return {**own, **self._run(self._frozen, {self.program.input: x}, x.shape[0])}
            return {**own, **self._by_chunks(x)}

    def _by_chunks(self, x: Tensor) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = {}
        for begin in range(0, x.shape[0], PREFIX_CHUNK):
            part = x[begin : begin + PREFIX_CHUNK]
            for name, value in self._run(self._frozen, {self.program.input: part}, part.shape[0]).items():
                axis = self._axes[name] or 0
                if name not in whole:
                    whole[name] = value.new_empty([*value.shape[:axis], x.shape[0], *value.shape[axis + 1 :]])
                whole[name].narrow(axis, begin, part.shape[0]).copy_(value)
        return whole

    def _run(self, part: Section, given: dict[str, Tensor], batch: int) -> dict[str, Any]:
        env = sections.start(self.program, self._values, given, batch)
        given.clear()  # so that the section holds them alone, and frees each with its last reader
        return part(env)

    def _with_graph(self, live: list[Step], learners: Learners) -> Section:
        """The live part, blocks that are computed twice as one step each."""
        steps: list[Step] = []
        runs: dict[str, Run] = {}
        for block in blocks(self.program, live):
            again = bool(learners.recomputed.intersection(block.layers))
            gives = (block.output,) if again else tuple(step.name for step in block.steps)
            inner = self._bound(list(block.steps), learners, live if not again else block.steps)
            if again:
                live_again = sections.section(block.steps, inner, self.program, gives)
                quiet = self._without_graph(list(block.steps), gives)
                inner = {block.output: block_run(block, self.program, self._values, quiet, live_again, self._anchor)}
            steps += [block_step(block)] if again else block.steps
            runs |= inner
        return sections.section(steps, runs, self.program, (self.program.output,))

    def _bound(self, steps: list[Step], learners: Learners, among: Sequence[Step]) -> dict[str, Run]:
        over = sections.overwritable(among, (self.program.output, among[-1].name))
        return {
            s.name: plain_run(s) if self._plain.intersection(s.refs)
            else live_run(s, self.program, learners.by_layer.get(s.layer), self.updates, self._anchor, s.name in over)
            for s in steps
        }  # fmt: skip

    def _without_graph(self, steps: list[Step], gives: tuple[str, ...]) -> Section:
        over = sections.overwritable(steps, gives)
        return sections.section(steps, {step.name: frozen_run(step, step.name in over) for step in steps}, self.program, gives)


def _leaf(updates: Updates, key: str) -> Tensor:
    """The value as autograd's leaf: its gradient goes to the updates as soon as it is whole, and is not kept."""
    leaf = updates.values[key].detach().requires_grad_()

    def arrived(value: Tensor) -> None:
        grad, value.grad = value.grad, None
        if grad is not None:
            updates.take(key, grad)

    leaf.register_post_accumulate_grad_hook(arrived)
    return leaf


def _filled(x: Tensor, batch: int | None) -> Tensor:
    """x with its last sample repeated up to a multiple of a fixed batch."""
    short = -x.shape[0] % batch if batch else 0
    return torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) if short else x


def _needed(steps: list[Step], gives: tuple[str, ...]) -> list[Step]:
    needed, kept = set(gives), []
    for step in reversed(steps):
        if step.name in needed:
            needed.update(step.refs)
            kept.append(step)
    return kept[::-1]
