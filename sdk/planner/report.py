"""A plan as plain text, at most 100 columns wide. Colour is the command line's affair."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate

from sdk.planner.arrange import Placement
from sdk.planner.mcu_training import training_text
from sdk.planner.records import Budget, MemoryUse, Plan, PlanStep

WIDTH = 100
_BAR = 24
_MAP_ROWS = 14
_MAP_COLUMNS = 84
_PEAKS = 5
#: How a buffer is drawn on the map; neighbours in time alternate between the two of "activation".
SHADES = {"input": "░", "output": "▒", "scratch": "╳", "state": "▚", "activation": "█▓"}


def plan_text(plan: Plan) -> str:
    """The whole report: verdict, memories, map over time, peak, speed, decisions, mends."""
    parts = [
        verdict(plan),
        _memories(plan.memories),
        *(_map(plan, region) for region, size in enumerate(plan.arena_bytes) if size),
        _peaks(plan),
        _speed(plan),
        training_text(plan.training, sum(plan.arena_bytes), plan.ram_bytes) if plan.training else "",
        _bullets("Decisions", plan.decisions),
        _bullets("What would make it fit, best first", [m.text for m in plan.mends]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(plan: Plan) -> str:
    """One line, or one for each memory that is too small. Example: "kws on stm32f405: fits, 9,012 bytes of arena, ..."."""
    if plan.fits:
        flash = f", {plan.flash_bytes:,} bytes of flash" if plan.flash else ""
        text = f"{plan.name} on {plan.device.name}: fits, {sum(plan.arena_bytes):,} bytes of arena, {plan.ram_bytes:,} of RAM in all{flash}"
    else:
        text = f"{plan.name} on {plan.device.name}: does NOT fit; " + "; ".join(str(s) for s in plan.shortfall)
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")


def _memories(memories: Sequence[MemoryUse]) -> str:
    """A line a memory with a bar, and under it what lies there."""
    wide = max(len(m.name) for m in memories)
    lines = [f"{'Memory':{wide}}  {'size':>13} {'used':>13} {'free':>13}"]
    for m in memories:
        over = m.used_bytes - m.size_bytes
        left = f"{m.free_bytes:,}" if over <= 0 else f"-{over:,}"
        lines.append(f"{m.name:{wide}}  {m.size_bytes:13,} {m.used_bytes:13,} {left:>13}  {bar(m.used_bytes, m.size_bytes)}")
        inside = "  ".join(f"{what} {size:,}" for what, size in m.parts if size)
        if inside:
            lines += textwrap.wrap(inside, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def bar(used: int, size: int, width: int = _BAR) -> str:
    """`used` of `size` as a bar with eighths of a block, and in percent. Beyond the end it says so."""
    share = used / size if size else 0.0
    eighths = min(width * 8, -(-used * width * 8 // size)) if size else 0
    blocks = "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
    return f"▕{blocks:{width}}▏{100 * share:5.1f} %" + (" !" if used > size else "")


def _map(plan: Plan, region: int) -> str:
    """The region over time: a column a step (or several), a row an equal part of the arena, offset 0 at the bottom."""
    size, count = plan.arena_bytes[region], max(len(plan.steps), 1)
    per_column = -(-count // _MAP_COLUMNS)  # steps drawn in one column
    columns = -(-count // per_column)
    wide = max(1, min(6, _MAP_COLUMNS // columns))
    rows = max(1, min(_MAP_ROWS, -(-size // 4)))
    grid = _grid(plan, region, rows, columns, per_column)
    memory = next(m.name for m in plan.memories if m.region == region)
    each = f", {per_column} steps a column" if per_column > 1 else ""
    lines = [f"Arena in {memory} over time: {size:,} bytes, {count} steps{each}"]
    for row in range(rows - 1, -1, -1):
        label = f"{size * (row + 1) // rows:>10,}"
        lines.append(f"{label} ▕{''.join(cell * wide for cell in grid[row])}▏")
    peak = max(range(count), key=lambda n: plan.steps[n].live_bytes if plan.steps else 0) // per_column
    lines.append(" " * 12 + " " * (peak * wide) + "▲" * wide + f"  peak: step {plan.steps[peak_step(plan)].node}" if plan.steps else "")
    lines.append(f"{'':11} input {SHADES['input']}  output {SHADES['output']}  between █▓  scratch {SHADES['scratch']}")
    return "\n".join(line[:WIDTH].rstrip() for line in lines)


def _grid(plan: Plan, region: int, rows: int, columns: int, per_column: int) -> list[list[str]]:
    """Cells [rows][columns]; a later buffer is drawn over an earlier one, as its bytes are."""
    grid = [[" "] * columns for _ in range(rows)]
    size = plan.arena_bytes[region]
    for p, turn in in_time(plan, region):
        shade = SHADES["activation"][turn % 2] if p.kind == "activation" else SHADES[p.kind]
        low, high = p.offset * rows // size, max(p.offset * rows // size + 1, -(-(p.offset + p.size_bytes) * rows // size))
        for row in range(low, min(rows, high)):
            for column in range(p.first_step // per_column, p.last_step // per_column + 1):
                grid[row][min(column, columns - 1)] = shade
    return grid


def in_time(plan: Plan, region: int) -> list[tuple[Placement, int]]:
    """Buffers of a region in the order they come alive, each with its turn among the activations, by which neighbours differ.

    Tensors that are another's bytes are left out.
    """
    rows = [p for p in (*plan.placements.values(), *plan.scratches.values()) if p.region == region and not p.alias_of and p.size_bytes]
    rows.sort(key=lambda p: (p.first_step, p.last_step, p.offset))
    turns = accumulate(p.kind == "activation" for p in rows)
    return list(zip(rows, turns, strict=True))


def peak_step(plan: Plan) -> int:
    """The step with the most live bytes."""
    return max(range(len(plan.steps)), key=lambda n: (plan.steps[n].live_bytes, -n))


def peak_steps(plan: Plan, count: int = _PEAKS) -> list[PlanStep]:
    """The steps with the most live bytes, the highest first."""
    return sorted(plan.steps, key=lambda s: (-s.live_bytes, s.index))[:count]


def _peaks(plan: Plan) -> str:
    if not plan.steps:
        return ""
    above = sum(plan.arena_bytes) - plan.lower_bound_bytes
    bound = "at its lower bound" if above <= 0 else f"{above:,} above its lower bound ({plan.lower_bound_bytes:,})"
    lines = [f"What sets the peak (arena {sum(plan.arena_bytes):,} bytes, {bound})"]
    for step in peak_steps(plan):
        shape = "x".join(map(str, step.shape))
        lines.append(f"{step.live_bytes:10,}  {step.index:3}  {clip(step.node, 44)}  {step.op} -> {step.dtype} {shape}")
        lines += textwrap.wrap(what_lives(plan, step), WIDTH - 6, initial_indent=" " * 17, subsequent_indent=" " * 17)
    return "\n".join(line[:WIDTH] for line in lines)


def what_lives(plan: Plan, step: PlanStep) -> str:
    """Names and sizes alive at a step. Example: "conv2 8,000 + conv1 8,000 + scratch 256, 7,360 shared"."""
    alive = plan.alive(step.index)
    text = " + ".join(f"{'scratch' if p.kind == 'scratch' else clip(p.tensor, 40)} {p.size_bytes:,}" for p in alive)
    shared = sum(p.size_bytes for p in alive) - step.live_bytes
    return text + (f", {shared:,} shared" if shared > 0 else "")


def clip(text: str, width: int) -> str:
    """`text`, its middle left out where it is longer than `width`."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head):]}"


def _speed(plan: Plan) -> str:
    cost = plan.cost
    latency = cost.latency_s
    time = f", {seconds(latency)} at {cost.clock_hz / 1e6:g} MHz" if latency is not None else ", the clock is not confirmed"
    cycles = f", about {cost.cycles:,} cycles{time}" if cost.cycles else ""
    lines = [f"Work: {cost.macs:,} multiply-accumulates{cycles} ({cost.basis})"]
    if plan.flash is not None:
        lines.append(f"Stack: at most {plan.stack_bytes:,} bytes, {plan.stack_reserved_bytes:,} set aside; compiler {plan.compiler}")
    slowest = sorted(plan.steps, key=lambda s: (-s.cycles, s.index))[:3]
    if slowest and cost.cycles:
        lines.append("Most of it: " + ", ".join(f"{clip(s.node, 30)} {100 * s.cycles / cost.cycles:.0f} %" for s in slowest))
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in lines)


def seconds(value: float) -> str:
    """A duration as a person reads it: 0.0123 -> "12.3 ms"."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def _bullets(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    lines = [textwrap.fill(text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False) for text in sentences]
    return "\n".join([title, *lines])


def budget_text(budget: Budget) -> str:
    """What there is to spend: `print(sdk.plan(device))`."""
    device = budget.device
    flash = f" and {budget.flash_bytes:,} of flash for kernels and weights" if budget.flash_bytes else ""
    head = f"{device.name}{f' ({device.title})' if device.title else ''}: {budget.arena_bytes:,} bytes of RAM for tensors{flash}"
    parts = [textwrap.fill(head, WIDTH, subsequent_indent="    "), _memories(budget.memories), "\n".join(_fact_lines(budget))]
    if budget.estimated:
        text = "Code, data and stack of the runtime are estimates: nobody has measured them for this core and compiler yet."
        parts.append(textwrap.fill(text, WIDTH))
    return "\n\n".join(part for part in parts if part) + "\n"


def _fact_lines(budget: Budget) -> Iterator[str]:
    yield "Speed and links"
    for what, value, source in budget.facts:
        told = f"{what}: {value}" + (f"  [{source}]" if source else "")
        yield from textwrap.wrap(told, WIDTH, initial_indent="  ", subsequent_indent="    ")
    for link in budget.device.links:
        yield f"  link: {link.name} ({link.kind}{f', {link.baud:,} baud' if link.kind == 'serial' else ''})"
    if budget.device.kind == "mcu" and not budget.device.slots:
        yield "  update slots: none set aside"
    yield f"  backend: {budget.backend}"
    for path in budget.unconfirmed:
        yield from textwrap.wrap(f"not confirmed, so never used: {path}", WIDTH, initial_indent="  ", subsequent_indent="    ")
