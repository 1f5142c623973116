"""Widths that need the same memory at every stage of a net, solved with the planner of the device that is to run it.

The equal-memory rule of MOOFA (arXiv 2409.05900), with two changes that a real device asks for: a block's memory is what the planner
computes for it, shortcut, scratch and shared bytes included, and weights lie in flash, not beside the activations. So RAM bounds the
early stages, with their large pictures, and flash the late ones, with their many weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sdk.errors import DoesNotFit, UsageError
from sdk.prepare.moofa.cost import Costs, Pieces
from sdk.prepare.moofa.devices import within
from sdk.prepare.moofa.ladders import MOOFA
from sdk.prepare.moofa.space import Block, Ladder, divisible, largest
from targets.device import Device, load_device

#: Stages have multiples of STEP channels, the thin first block multiples of THIN: the fast kernels take four at a time.
STEP, THIN = 8, 4
#: No stage is made wider than this.
WIDEST = 1024


@dataclass(frozen=True)
class Limits:
    """The reference block's expansion and kernel, and bytes that no piece's arena and no net's flash may exceed."""

    expansion: float
    kernel: int
    ram_bytes: int
    flash_bytes: int


def widths(
    device: Device | str,
    input: int,
    e_ref: float = 4,
    k_ref: int = 7,
    *,
    like: Ladder = MOOFA,
    classes: int = 10,
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
    name: str = "equal-memory",
) -> Ladder:
    """A ladder whose blocks, with expansion `e_ref` and kernel `k_ref` on pictures of `input` pixels, need at most `ram_bytes` of arena.

    Stage by stage the widest block that fits is taken; then all stages are cut to the one width at which the largest net fits `flash_bytes`.
    like: where everything but the widths comes from; its last layers keep their proportion to the last stage, its stem stays.
    ram_bytes, flash_bytes: by default all that the device has left; give less to share it, or for a family of smaller boards.
    Raises DoesNotFit where the narrowest ladder needs more, with the bytes; UsageError for a choice that `like` does not have.

        widths("stm32f746", 32, like=SMALL_MOOFA, ram_bytes=32 * 1024, flash_bytes=384 * 1024)
    """
    board = load_device(device)
    limits = Limits(e_ref, k_ref, *_rooms(board, ram_bytes, flash_bytes))
    solver = _Solver(Pieces(board), limits, _shape(like, input, limits, name), input, classes)
    cap = _widest(range(STEP, WIDEST + 1, STEP), lambda width: solver.flash(solver.ladder(width)) <= limits.flash_bytes)
    if cap is None:
        raise DoesNotFit(f"the narrowest ladder needs {solver.flash(solver.ladder(STEP)):,} bytes of flash and {limits.flash_bytes:,} were given; "
                         f"give more flash_bytes or another device")  # fmt: skip
    return solver.ladder(cap)


def _rooms(device: Device, ram_bytes: int | None, flash_bytes: int | None) -> tuple[int, int]:
    """Bytes of arena and of flash to be spent: as given, else what the device has."""
    free = within(device, None).limits
    return (int(free["arena_bytes"]) if ram_bytes is None else ram_bytes, int(free["flash_bytes"]) if flash_bytes is None else flash_bytes)


def _shape(like: Ladder, side: int, limits: Limits, name: str) -> Ladder:
    """`like` under a new name, for pictures of up to `side` pixels, if it has the reference block."""
    if limits.expansion not in like.expansions or limits.kernel not in like.kernels:
        raise UsageError(f"{like.name} has no expansion {limits.expansion:g} with kernel {limits.kernel}; choose e_ref from {like.expansions} "
                         f"and k_ref from {like.kernels}")  # fmt: skip
    return replace(like, name=name, resolutions=tuple(sorted({side, *(r for r in like.resolutions if r < side)})))


def _widest(choices: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of rising `choices` that fits, where fitting ends once and for all; None where the first does not.

    It starts at the narrow end: planning a wide block takes long.
    """
    low, high, stride = 0, len(choices), 1  # choices[:low] fit, choices[high:] do not
    while low < high:
        at = min(low + stride - 1, (low + high) // 2)
        if fits(choices[at]):
            low, stride = at + 1, 2 * stride
        else:
            high = at
    return choices[low - 1] if low else None


@dataclass(frozen=True)
class _Solver:
    """Ladders of one shape under given limits."""

    pieces: Pieces
    limits: Limits
    shape: Ladder
    side: int
    classes: int

    def flash(self, ladder: Ladder) -> int:
        """Flash of the ladder's largest net."""
        return Costs(self.pieces.device, ladder, self.classes, pieces=self.pieces)(largest(ladder)).flash_bytes

    def ladder(self, cap: int) -> Ladder:
        """The widest ladder whose blocks fit the RAM and whose stages have at most `cap` channels."""
        side = -(-self.side // self.shape.strides[0])
        before = first = self._solve(range(THIN, cap + 1, THIN), lambda width: self._first(width, side))
        stages = []
        for stage in range(1, len(self.shape.stages) + 1):
            before = self._solve(range(STEP, cap + 1, STEP), lambda width, s=stage, b=before, at=side: self._stage(s, b, width, at))  # type: ignore[misc]
            side = -(-side // self.shape.strides[stage])
            stages.append(before)
        share = before / self.shape.stages[-1]
        final, feature = (width and divisible(width * share) for width in (self.shape.final, self.shape.feature))
        return replace(self.shape, first=first, stages=tuple(stages), final=final, feature=feature)

    def _solve(self, choices: range, parts: Callable[[int], Iterator[Block]]) -> int:
        """The widest choice whose blocks all fit the RAM. Raises DoesNotFit where the first does not."""
        def arena(width: int) -> int:
            return max(self.pieces.of([block]).arena_bytes for block in parts(width))

        found = _widest(choices, lambda width: arena(width) <= self.limits.ram_bytes)
        if found is None:
            raise DoesNotFit(f"{self.shape.name} for {self.side} pixels needs {arena(choices[0]):,} bytes of arena even when narrowest and "
                             f"{self.limits.ram_bytes:,} were given; give more ram_bytes, a smaller input or larger strides")  # fmt: skip
        return found

    def _block(self, stage: int, inputs: int, outputs: int, stride: int, side: int) -> Block:
        """A reference block of a stage."""
        hidden = self.shape.hidden(inputs, self.limits.expansion)
        return Block(stage, 0, inputs, hidden, outputs, self.limits.kernel, stride, side, self.shape.activations[stage], self.shape.squeeze[stage])

    def _first(self, width: int, side: int) -> Iterator[Block]:
        """The first block with `width` outputs, and what the first stage has to make of them."""
        shape = self.shape
        yield Block(0, -1, shape.stem, shape.stem, width, 3, 1, side, shape.activations[0], shape.squeeze[0], expands=False)
        yield self._block(1, width, STEP, shape.strides[1], side)

    def _stage(self, stage: int, inputs: int, width: int, side: int) -> Iterator[Block]:
        """A stage's first block, a block within it, and the next stage's first with as few channels behind it as can be."""
        shape, stride = self.shape, self.shape.strides[stage]
        yield self._block(stage, inputs, width, stride, side)
        after = -(-side // stride)
        if shape.depths[-1] > 1:
            yield self._block(stage, width, width, 1, after)
        if stage < len(shape.stages):
            yield self._block(stage + 1, width, STEP, shape.strides[stage + 1], after)
