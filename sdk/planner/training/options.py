"""What can be done with each layer, with its price: the options that `choose` takes, computed from the walk and the calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sdk.errors import UsageError
from sdk.planner.training import kept
from sdk.planner.training.blocks import Offered, offered, positions
from sdk.planner.training.fronts import Option
from sdk.planner.training.live import backward_live, forward_live, kept_beside, kept_storages, needing, spans
from sdk.planner.training.records import FRACTIONS, Choice, LayerRecord
from sdk.planner.training.spec import Training
from sdk.planner.training.walk import Op, Walk
from sdk.planner.training.work import UNIT, Rates, Work, layer_class, layer_work
from sdk.planner.training.workspace import backward_workspace, convolution_bytes, forward_workspace

#: Ranks of a layer's modes, batch first, for a method at a share of energy.
RankRule = Callable[[LayerRecord, str, float], tuple[int, ...]]
#: By layer, (share of its own gradient, ranks) of fixed bases with which all of them together keep a share of their gradient.
ShareRule = Callable[[Sequence[LayerRecord], float], Mapping[str, tuple[float, tuple[int, ...]]]]
EPS_GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
#: Methods that `method="auto"` looks at. hosvd and svd take as many bytes as a batch happens to need, so they must be asked for by name.
AUTO = ("bias", "channels", "adapter", "fixed", "asi", "recompute", "exact")


@dataclass(frozen=True)
class Setting:
    """Everything that options are computed from, for one size of batch.

    batch: samples that go forward and back at once. micro: that is less than a step's batch, so gradients are added up.
    undo: values before the step are kept until it is over. copies: layers need the workspace that torch's libraries do,
    which a microcontroller's kernels do not. chunk: samples that pass the frozen part at once. shared: layers whose fixed bases share one eps.
    """

    walk: Walk
    records: tuple[LayerRecord, ...]
    training: Training
    rank_rule: RankRule = field(repr=False)
    batch: int = 1
    micro: bool = False
    undo: bool = True
    copies: bool = True
    chunk: int = 8
    rates: Rates = field(default=UNIT, repr=False)
    methods: tuple[str, ...] = AUTO
    eps_grid: tuple[float, ...] = EPS_GRID
    shared: Mapping[str, tuple[float, tuple[int, ...]]] = field(default_factory=dict, repr=False)

    @property
    def held_copies(self) -> int:
        """Values held all the time for each one that learns: itself, beside the model's own, momentum, the sum of gradients."""
        return 1 + self.training.optimiser_copies + self.micro

    @property
    def undo_copies(self) -> int:
        """Values kept of each one that learns until the step is over."""
        return (1 + self.training.optimiser_copies) if self.undo else 0

    @cached_property
    def live(self) -> list[frozenset[str]]:
        """For each operation the storages alive while it runs."""
        return forward_live(self.walk)

    @cached_property
    def spans(self) -> dict[int, range]:
        """Layer index -> positions of its operations."""
        return spans(self.walk)

    def bytes_of(self, storages: Iterable[str]) -> int:
        """Bytes of a batch of these storages."""
        return sum(self.walk.size_of(name, self.batch) for name in storages)

    @cached_property
    def prefix_bytes(self) -> tuple[int, ...]:
        """For each layer, the most bytes alive in the frozen part when training starts at it.

        A few samples pass at a time; what they hand over is collected in one batch.
        """
        live, chunk = forward_live(self.walk, frozen=True), min(self.chunk, self.batch)
        high, found = 0, []
        for layer in range(-1, len(self.records)):
            if layer >= 0:
                crossing = self.bytes_of(self.crossing(self.walk.layer_at[layer]))
                found.append(high + crossing if chunk < self.batch else high)
            here = [sum(self.walk.size_of(name, chunk) for name in live[at]) for at in self.spans.get(layer, range(0))]
            if layer >= 0:
                here[0] += convolution_bytes(self.records[layer], chunk)
            high = max([high, *here])
        return tuple(found)

    def crossing(self, first: int) -> frozenset[str]:
        """Storages that the frozen part hands over when the operation at `first` is the first that learns."""
        before = {self.walk.frozen_storage[op.name] for op in self.walk.ops[:first]}
        return frozenset(self.walk.storage[name] for op in self.walk.ops[first:] for name in op.reads if self.walk.storage[name] in before)

    @cached_property
    def back(self) -> list[int]:
        """For each operation the gradients alive in backward, where every layer passes its gradient on."""
        return backward_live(self.walk, self.batch, tuple(self.walk.layer_at.values()))

    @cached_property
    def reached(self) -> frozenset[str]:
        """Values that a gradient reaches where every layer learns."""
        return needing(self.walk, tuple(self.walk.layer_at.values()))

    @cached_property
    def offered(self) -> tuple[Offered, ...]:
        """The blocks that may be recomputed, where that method is looked at."""
        return offered(self.walk) if "recompute" in self.methods else ()

    @cached_property
    def block_at(self) -> dict[int, int]:
        """Position of an operation in a block that may be recomputed -> first layer of that block."""
        return positions(self.offered)

    def options(self, index: int) -> tuple[Option, ...]:
        """All options of one layer, the frozen one first."""
        return tuple(self.option(index, choice) for choice in choices_for(self.records[index], self))

    def option(self, index: int, choice: Choice) -> Option:
        """One choice with its price."""
        record, kind = self.records[index], layer_class(self.records[index])
        learning = kept.learning_bytes(record, choice)
        works = [layer_work(record, choice, self.batch, first) + self.moved(index, choice) for first in (False, True)]
        return Option(
            choice, value(record, choice),
            saved_bytes=self._beside(index) + self._input_bytes(index, choice),
            constant_bytes=kept.constant_bytes(record, choice),
            weight_bytes=learning * (self.held_copies + self.undo_copies) + kept.still_bytes(record, choice),
            transient_bytes=self._transients(index, choice, False), step_s=self.rates.seconds(kind, works[0]),
            first_transient_bytes=self._transients(index, choice, True), first_step_s=self.rates.seconds(kind, works[1]),
        )  # fmt: skip

    def _input_bytes(self, index: int, choice: Choice) -> int:
        """What the layer's operations keep of their inputs; nothing more where an operation in front keeps the input anyway."""
        uses = [op for op in self.walk.ops if op.layer == index]
        each = kept.input_bytes(self.records[index], choice, self.batch)
        if choice.method != "exact" or choice.factors != "float32":
            return each * len(uses)
        return sum(each for op in uses if self.walk.storage[op.reads[0]] not in self._kept_in_front(op))

    def _kept_in_front(self, op: Op) -> set[str]:
        here = self.walk.ops.index(op)
        block = self.block_at.get(here)  # operations of another block may be recomputed, and then keep nothing
        before = [at for at in range(here) if self.block_at.get(at) in (None, block)]
        return {name for at in before for name in kept_storages(self.walk, self.walk.ops[at])}

    def _beside(self, index: int) -> int:
        """What operations behind the layer keep, up to the next one: masks, and whole values where a slope needs them."""
        ops = [self.walk.ops[at] for at in self.spans[index]]
        stored = {name for op in ops for name in kept_storages(self.walk, op)}
        return sum(kept_beside(self.walk, op, self.batch) for op in ops) + self.bytes_of(stored)

    def _transients(self, index: int, choice: Choice, first: bool) -> int:
        """The most bytes alive at the layer, or behind it up to the next one, beyond what is saved."""
        at, span, record = self.walk.layer_at[index], self.spans[index], self.records[index]
        x = self.walk.ops[at].reads[0]
        stored = {name for p in span for name in kept_storages(self.walk, self.walk.ops[p])}
        stored |= {self.walk.storage[x]} if choice.method == "exact" else set()
        forward = [self.bytes_of(self.live[p] - stored) for p in span]
        backward = [self.back[p] for p in span]
        backward[0] -= self.walk.size_of(x, self.batch) if first else 0
        if self.copies:
            forward[0] += forward_workspace(record, choice, self.batch)
            backward[0] += backward_workspace(record, choice, self.batch, first)
        return max(*forward, *backward)

    def moved(self, index: int, choice: Choice) -> Work:
        """What the operations behind the layer read and write, forward and backward; forward twice in a block that is recomputed."""
        sizes = [self.walk.size_of(self.walk.ops[at].name, self.batch) for at in self.spans[index][1:] if self.walk.ops[at].kind != "view"]
        return Work(moved_bytes=(6 if choice.method == "recompute" else 4) * sum(sizes))


def value(record: LayerRecord, choice: Choice) -> float:
    """Expected decrease of the loss for one small step, over the learning rate: squared gradient norms, the weight's times cos^2.

    A step along a projected gradient g' decreases the loss by <g, g'> = ||g||^2 cos^2; bias gradients are exact. For "channels" cos^2 is the
    share of the gradient's energy in those input channels, as calibrated; an older calibration without it: the share of the channels.
    """
    bias = record.bias_gradient_norm**2 if record.has_bias else 0.0
    match choice.method:
        case "freeze":
            return 0.0
        case "bias":
            return bias
    return record.gradient_norm**2 * cosine(record, choice) ** 2 + bias


def cosine(record: LayerRecord, choice: Choice) -> float:
    """Cosine between the gradient of this choice and the exact one, as calibrated. Raises UsageError where it was not."""
    if choice.method in ("exact", "recompute"):
        return 1.0
    if choice.method == "channels":
        return record.cosines.get(("channels", choice.fraction), choice.fraction**0.5)
    for method in (choice.method, *(("fixed",) if choice.method == "adapter" else ())):
        known = {eps: cos for (name, eps), cos in record.cosines.items() if name == method}
        if choice.eps in known:
            return max(0.0, known[choice.eps])
        above = [eps for eps in known if eps < choice.eps]
        if above:  # keeping more energy is at least as good
            return max(0.0, known[max(above)])
    raise UsageError(f"layer {record.name} was not calibrated for {choice.method} at eps {choice.eps:g}; calibrate with that eps, or choose another")


def choices_for(record: LayerRecord, setting: Setting) -> tuple[Choice, ...]:
    """The frozen choice and every way this layer may learn."""
    found = [Choice(record.name, "freeze")]
    for method in setting.methods:
        if method in ("bias", "exact"):
            if method == "exact" or record.has_bias:
                found.append(Choice(record.name, method))
            continue
        if method in ("channels", "recompute"):  # a block's layers are recomputed together: `recomputed.py`
            found += some_channels(record, setting) if method == "channels" else []
            continue
        for eps in setting.eps_grid:
            choice = compressed(record, method, eps, setting)
            if choice is not None and choice not in found:
                found.append(choice)
    return tuple(found)


def some_channels(record: LayerRecord, setting: Setting) -> list[Choice]:
    """A part of the input channels learns; not where channels have weights of their own, nor where a part is no fewer."""
    if record.groups > 1:
        return []
    parts = [Choice(record.name, "channels", fraction=fraction, factors=setting.training.factors_of("channels")) for fraction in FRACTIONS]
    return [c for c in parts if kept.learning_channels(record, c) < record.weight_shape[1]]


def compressed(record: LayerRecord, method: str, eps: float, setting: Setting) -> Choice | None:
    """The layer's input compressed by a method at `eps`; None where that saves nothing, or cannot be done."""
    if method == "adapter" and record.groups > 1:
        return None
    if method == "fixed" and record.name in setting.shared:
        eps, ranks = setting.shared[record.name]
    else:
        ranks = setting.rank_rule(record, method, eps) or kept.planned_ranks(record, method, eps, setting.batch)
    if ranks and not any(ranks):
        return None
    made = Choice(record.name, method, eps, ranks, factors=setting.training.factors_of(method))
    if not made.ranks:
        return made
    size = kept.input_bytes(record, made, setting.batch)
    return made if size < kept.input_bytes(record, Choice(record.name), setting.batch) else None


def layer_options(setting: Setting, wanted: frozenset[str] | None) -> tuple[tuple[Option, ...], ...]:
    """The options of every layer. wanted: the layers that must learn (the others freeze); None leaves that to `choose`."""
    rows: list[tuple[Option, ...]] = []
    for i, record in enumerate(setting.records):
        if wanted is not None and record.name not in wanted:
            rows.append((setting.option(i, Choice(record.name, "freeze")),))
            continue
        options = setting.options(i)
        learning = tuple(o for o in options if o.trains)
        if wanted is not None and not learning:  # a depthwise layer where adapters were asked for: its own weights are few
            learning = (setting.option(i, Choice(record.name)),)
        rows.append(learning if wanted is not None else undominated(options))
    return tuple(rows)


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Without options that another of the same layer equals or beats in every price and in value; the frozen one stays."""
    kept_rows: list[Option] = []
    for o in options:
        if not o.trains or not any(other is not o and _beats(other, o) for other in options):
            kept_rows.append(o)
    return tuple(kept_rows)


def _beats(a: Option, b: Option) -> bool:
    cheaper = [getattr(a, n) <= getattr(b, n) for n in ("saved_bytes", "persistent_bytes", "transient_bytes", "first_transient_bytes")]
    better = a.value > b.value or (a.value == b.value and (a.persistent_bytes + a.saved_bytes, a.step_s) < (b.persistent_bytes + b.saved_bytes, b.step_s))
    return a.trains and all(cheaper) and better
