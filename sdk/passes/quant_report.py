"""What quantisation costs, layer by layer, and which layers to keep at higher precision.

For every node: the signal to quantisation noise of its own output with everything in front quantised too (cumulative),
and its own share. The share comes from the model's outputs (before a closing softmax or sigmoid, whose fixed 8-bit scale would hide
everything else): `alone_db` is their SQNR with only this node quantised (its weights and its result), `gain_db` what they
gain when all but this node are. Both are simulated in float on the same scales, from the node onwards only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdk.data import read
from sdk.errors import UsageError
from sdk.graph.interpreter import batch_count, compute_batch, run
from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.quantmath import RANGE, dequantise_array, quantise_array
from sdk.passes.bias_correction import mean_output, mean_sample, quantised_input
from sdk.passes.calibrate import WEIGHT_AXIS
from sdk.passes.equalise import equalised_like
from sdk.passes.quant_rewrite import with_bias
from sdk.passes.quant_rules import MOVES
from sdk.passes.soften_masks import softened_like

Values = dict[str, np.ndarray]
_BEST_DB = 150.0  # what "no noise at all" is printed as: float32 itself does not resolve more


@dataclass(frozen=True)
class Row:
    """One node."""

    node: str
    op: str
    precision: str
    sqnr_db: float  # of the node's output in the quantised model
    alone_db: float  # of the model's outputs with only this node quantised
    gain_db: float  # that the model's outputs gain when this node alone stays float
    share: float  # of the noise the nodes make one by one, 0..1
    weight_db: float | None  # of the node's weights
    saturated: float  # share of output values at the ends of the integer range (0 for float nodes)


@dataclass(frozen=True)
class QuantReport:
    """Rows in order of execution, and the SQNR of the model's outputs."""

    model: str
    samples: int
    output_db: float
    rows: tuple[Row, ...]

    def worst(self, count: int = 5) -> tuple[str, ...]:
        """The layers to keep at higher precision: the largest shares that together make half of the noise, at most `count`."""
        chosen: list[str] = []
        total = 0.0
        for row in sorted(self.rows, key=lambda r: -r.share):
            if total >= 0.5 or len(chosen) == count or row.share <= 0:
                break
            chosen.append(row.node)
            total += row.share
        return tuple(chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: model, samples, output_db, rows, worst."""
        return {**asdict(self), "rows": [asdict(r) for r in self.rows], "worst": list(self.worst())}

    def __str__(self) -> str:
        """A table, and the sentence to act on."""
        width = max([len(r.node) for r in self.rows] + [4])
        head = f"{'node':{width}}  {'op':16}  {'type':7}  SQNR dB  alone dB  gain dB   share  weights  at ends"
        lines = [f"{self.model}: outputs at {self.output_db:.1f} dB on {self.samples} samples", head]
        lines += [_line(row, width) for row in self.rows]
        worst = self.worst()
        share = sum(r.share for r in self.rows if r.node in worst)
        advice = f"{share:.0%} of the noise comes from {', '.join(worst)}: name them in int16 or keep_float if the model loses too much"
        return "\n".join([*lines, advice if worst else "no layer adds noise"])


def _line(row: Row, width: int) -> str:
    weights = "" if row.weight_db is None else f"{row.weight_db:.1f}"
    return (f"{row.node:{width}}  {row.op:16}  {row.precision:7}  {row.sqnr_db:7.1f}  {row.alone_db:8.1f}  {row.gain_db:7.2f}  "
            f"{row.share:6.1%}  {weights:>7}  {row.saturated:7.2%}")  # fmt: skip


def report(graph: Graph, quantised: Graph, data: Any, samples: int = 32) -> QuantReport:
    """Every layer of `quantised` against the float `graph` it was made of, on at most `samples` of `data`.

    Raises UsageError when the two do not belong together, DataError when the data does not fit.
    """
    _belong(graph, quantised)
    source = read(data, graph, samples)
    batch = next(source.batches(source.count))
    graph = softened_like(equalised_like(with_bias(graph), quantised), quantised)
    real = run(graph, batch, keep=True)
    whole = run(quantised, {n: quantised_input(quantised, n, v) for n, v in batch.items()}, keep=True)
    sim = Simulation(graph, quantised, real)
    powers = sim.shares()
    rows = tuple(_row(sim, node, whole, powers) for node in graph.nodes if _counts(quantised, node))
    return QuantReport(graph.name, source.count, _db(_output_noise(graph, quantised, real, whole)), rows)


def _belong(graph: Graph, quantised: Graph) -> None:
    missing = [n.name for n in graph.nodes if n.name not in {q.name for q in quantised.nodes}]
    if missing or graph.inputs != quantised.inputs:
        what = f"node {missing[0]}" if missing else f"input {graph.inputs[0]}"
        raise UsageError(f"{what} of the float model is not in the quantised one; give the float graph that quantise was given")


def _counts(quantised: Graph, node: Node) -> bool:
    return quantised[node.outputs[0]].dtype in ("int8", "int16", "float32")


def _row(sim: Simulation, node: Node, whole: Values, powers: Mapping[str, tuple[float, float]]) -> Row:
    """One node's figures; `whole` holds the quantised model's values, `powers` every node's noise."""
    name = node.outputs[0]
    tensor, values = sim.quantised[name], whole[name]
    alone, without = powers.get(node.name, (0.0, sim.together))
    total = sum(power for power, _ in powers.values()) or 1.0
    return Row(
        node.name, node.op, tensor.dtype,
        _db(noise_ratio(sim.exact[name], as_real(tensor, values))),
        _db(alone),
        _db(without) - _db(sim.together),
        alone / total,
        sim.weight_db(node),
        _saturated(tensor, values),
    )  # fmt: skip


def as_real(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """The real numbers that `values` of `tensor` stand for."""
    return values if tensor.quant is None else dequantise_array(values, tensor.quant)


def noise_ratio(signal: np.ndarray, other: np.ndarray) -> float:
    """Power of the difference over the power of the signal."""
    a, b = signal.astype(np.float64), other.astype(np.float64)
    power = float(np.square(a).sum())
    noise = float(np.square(a - b).sum())
    return noise / power if power else (0.0 if noise == 0 else 1.0)


def _db(ratio: float) -> float:
    """Noise over signal as signal over noise in dB."""
    return _BEST_DB if ratio <= 10 ** (-_BEST_DB / 10) else float(-10 * np.log10(ratio))


def _output_noise(graph: Graph, quantised: Graph, real: Values, whole: Values) -> float:
    """Mean noise ratio over the model's outputs; `whole` holds the quantised model's values."""
    pairs = zip(graph.outputs, quantised.outputs, strict=True)
    return float(np.mean([noise_ratio(real[a], as_real(quantised[b], whole[b])) for a, b in pairs]))


def before_closing(graph: Graph, name: str) -> str:
    """The tensor in front of the softmax or sigmoid that writes output `name`; `name` itself where there is none."""
    node = graph.producer(name)
    while node is not None and (node.op in ("softmax", "log_softmax", "sigmoid") or node.op in ("reshape", "transpose")):
        name = node.inputs[0]
        if node.op in ("softmax", "log_softmax", "sigmoid"):
            return name
        node = graph.producer(name)
    return name


def _saturated(tensor: Tensor, values: np.ndarray) -> float:
    """Share of values at the top or bottom of the range; the zero of a ReLU (bottom = zero point) does not count."""
    if tensor.quant is None or tensor.dtype not in ("int8", "int16") or values.size == 0:
        return 0.0
    low, high = RANGE[tensor.dtype]
    bottom = 0 if tensor.zero_point == low else int((values == low).sum())
    return float(int((values == high).sum()) + bottom) / values.size


def output_sqnr(graph: Graph, quantised: Graph, batch: Mapping[str, np.ndarray]) -> float:
    """SQNR in dB of the model's outputs, before a closing softmax or sigmoid, on float samples `batch`."""
    real = run(graph, batch, keep=True)
    whole = run(quantised, {n: quantised_input(quantised, n, v) for n, v in batch.items()}, keep=True)
    names = dict.fromkeys(before_closing(graph, n) for n in graph.outputs)
    return _db(float(np.mean([noise_ratio(real[n], as_real(quantised[n], whole[n])) for n in names])))


class Simulation:
    """The float graph with chosen nodes rounded to what the quantised graph's integers can hold.

    `real` are the float graph's values; a changed run is computed from the first changed node onwards.
    """

    def __init__(self, graph: Graph, quantised: Graph, real: Values) -> None:
        self.graph, self.quantised = graph, quantised
        self.real = self._with_rounded_inputs(real)
        self.exact = real
        self.batches = batch_count(graph, {n: real[n] for n in graph.inputs})
        self.measured = tuple(dict.fromkeys(before_closing(graph, n) for n in graph.outputs))
        self.nodes = tuple(n for n in graph.nodes if self._rounds(n))
        self._other = {n.name: n for n in quantised.nodes}
        self._weights = {n.name: self._rounded_constants(n) for n in graph.nodes}
        self._corrected = any(self._moved_bias(n) for n in graph.nodes)
        self.all = self._run(self.real, {n.name for n in self.nodes}, 0)
        self.together = self._noise(self.all)

    def shares(self) -> dict[str, tuple[float, float]]:
        """Node -> (output noise with it alone quantised, output noise with all but it quantised)."""
        everything = {n.name for n in self.nodes}
        found: dict[str, tuple[float, float]] = {}
        for index, node in enumerate(self.graph.nodes):
            if node.name not in everything:
                continue
            alone = self._run(self.exact, {node.name}, index, own_bias=self._corrected)
            without = self._run(self.all, everything - {node.name}, index)
            found[node.name] = (self._noise(alone), self._noise(without))
        return found

    def weight_db(self, node: Node) -> float | None:
        """SQNR of the node's weight; None for a node without one."""
        if node.op not in WEIGHT_AXIS or node.inputs[1] not in self._weights[node.name]:
            return None
        data = self.graph[node.inputs[1]].data
        return None if data is None else _db(noise_ratio(data, self._weights[node.name][node.inputs[1]]))

    def _with_rounded_inputs(self, real: Values) -> Values:
        rounded = {n: self._round(n, real[n]) for n in self.graph.inputs}
        return {**real, **rounded}

    def _rounds(self, node: Node) -> bool:
        """True for a node that makes noise of its own: moving values does not, and what comes after the measured tensors is not seen."""
        return self.quantised[node.outputs[0]].dtype in ("int8", "int16") and node.op not in MOVES

    def _round(self, name: str, values: np.ndarray) -> np.ndarray:
        tensor = self.quantised[name]
        if tensor.quant is None or values.dtype != np.float32:
            return values
        return dequantise_array(quantise_array(values, tensor.scale, tensor.zero_point, tensor.dtype), tensor.quant)

    def _rounded_constants(self, node: Node) -> Values:
        """Name in the float graph -> the node's constant as the quantised graph stores it, as real numbers."""
        found: Values = {}
        for mine, theirs in zip(node.inputs, self._other[node.name].inputs, strict=False):
            tensor = self.quantised.tensors.get(theirs) if mine and self.graph[mine].is_const else None
            if tensor is not None and tensor.data is not None and tensor.quant is not None:
                found[mine] = dequantise_array(tensor.data, tensor.quant)
        return found

    def _moved_bias(self, node: Node) -> bool:
        """True when the node's integer bias is not simply its float bias rounded: biases were corrected."""
        if node.op not in WEIGHT_AXIS or len(node.inputs) < 3 or node.inputs[2] not in self._weights[node.name]:
            return False
        bias, scale = self._constant(node.inputs[2]), self.quantised[self._other[node.name].inputs[2]].quant
        moved = np.abs(self._weights[node.name][node.inputs[2]] - bias)
        return bool((moved > 1.5 * np.asarray(scale.scale if scale else 0) + 1e-6 * np.abs(bias)).any())

    def _own_bias(self, node: Node, values: Values) -> Values:
        """The bias a node alone would have: what its own weights shift taken out, not what others' do in front of it."""
        if node.op not in WEIGHT_AXIS or len(node.inputs) < 3 or node.inputs[1] not in self._weights[node.name]:
            return {}
        x, bias = mean_sample(values[node.inputs[0]]), self._constant(node.inputs[2])
        exact = mean_output(self.graph, node, x, self._constant(node.inputs[1]), bias)
        rounded = mean_output(self.graph, node, x, self._weights[node.name][node.inputs[1]], bias)
        return {node.inputs[2]: (bias + (exact - rounded)).astype(np.float32)}

    def _constant(self, name: str) -> np.ndarray:
        data = self.graph[name].data
        assert data is not None  # a node with rounded weights has constant ones
        return data

    def _run(self, start: Values, rounded: set[str], first: int, own_bias: bool = False) -> Values:
        """All values, those of the nodes before `first` taken from `start`, the nodes in `rounded` quantised."""
        values = dict(start)
        for node in self.graph.nodes[first:]:
            quantised = node.name in rounded
            constants = self._weights[node.name] if quantised else {}
            if quantised and own_bias:
                constants = {**constants, **self._own_bias(node, values)}
            outputs = compute_batch(self.graph, node, {**values, **constants}, self.batches)
            for name, value in zip(node.outputs, outputs, strict=True):
                values[name] = self._round(name, value) if quantised else value
        return values

    def _noise(self, values: Values) -> float:
        return float(np.mean([noise_ratio(self.exact[n], values[n]) for n in self.measured]))


__all__ = ["QuantReport", "Row", "Simulation", "report"]
