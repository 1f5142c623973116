"""A calibration run on the host: the spectra and bases of every layer's input, gradient norms, and how well each method would do.

The first pass over the data adds up a Gram matrix for every mode of every layer's input; two over a few batches turn the bases to where the
gradients lie and find how much each direction matters; the last compares, layer by layer and batch by batch, the weight gradient of each
method with the exact one. Nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.errors import DataError, UsageError
from sdk.planner.training.records import LayerRecord
from sdk.training.nn import compressors, sections
from sdk.training.nn.conv_grad import conv_bias_grad, conv_input_grad, conv_weight_grad, convolution
from sdk.training.nn.data import checked_labels, checked_samples
from sdk.training.nn.decompose import spectrum
from sdk.training.nn.factors import own
from sdk.training.nn.linear_grad import linear_bias_grad, linear_input_grad, linear_weight_grad
from sdk.training.nn.modes import unfold_gram
from sdk.training.nn.program import Layer, Step, TrainableProgram
from sdk.training.nn.ranks import WHOLE_FROM, ranks_global, ranks_per_mode
from sdk.training.nn.rewrite import live_run, widened
from sdk.training.nn.saved import Compressor, Saved
from sdk.training.nn.sensitivity import Sensitivity, directions, gradient_gram
from sdk.training.nn.update import Updates

EPS_GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
METHODS = ("fixed", "hosvd", "asi", "adapter")
#: Batches on which methods are compared: gradients differ far more between batches than between methods, so a few tell enough.
COMPARED = 8
#: Batches whose gradients choose the directions and ranks of fixed bases.
LEARNED_FROM = 4
#: Samples for which the ranks of fixed bases balance cores, one a sample, against bases, one for all.
RANK_SAMPLES = 16


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration run found. records: of every layer, with spectra, norms and cosines. bases: [d, d] directions for each mode of its
    input but the batch, strongest first. samples: seen. model_id: of the program, with the weights that it had."""

    records: tuple[LayerRecord, ...]
    bases: Mapping[str, tuple[Tensor, ...]] = field(repr=False)
    samples: int
    model_id: str

    def record(self, layer: str) -> LayerRecord:
        """The record of one layer. Raises UsageError for one that was not calibrated."""
        for record in self.records:
            if record.name == layer and record.spectra:
                return record
        raise UsageError(f"layer {layer} was not calibrated; run calibrate with it among the layers, or let it learn by exact or bias")

    def basis(self, layer: str, ranks: Sequence[int]) -> tuple[Tensor | None, ...]:
        """The first ranks[n + 1] directions of each mode n, [d, K]; None for rank 0, a mode left whole. ranks: batch first."""
        known = self.bases[self.record(layer).name]
        return tuple(own(basis[:, :rank].contiguous()) if rank else None for basis, rank in zip(known, ranks[1:], strict=True))

    def save(self, path: str | Path) -> None:
        """Write it as .npz, without pickles."""
        arrays: dict[str, np.ndarray] = {}
        rows = []
        for i, record in enumerate(self.records):
            rows.append(_row(record))
            for n, energies in enumerate(record.spectra):
                arrays[f"{i}/{n}/spectrum"] = energies
                arrays[f"{i}/{n}/gradient"] = record.gradient_spectra[n]
                arrays[f"{i}/{n}/basis"] = self.bases[record.name][n].numpy()
        header = json.dumps({"records": rows, "samples": self.samples, "model_id": self.model_id})
        with open(path, "wb") as file:
            np.savez(file, header=np.frombuffer(header.encode(), np.uint8), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """The calibration that `save` wrote. Raises UsageError for a file that is something else."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                header = json.loads(bytes(stored["header"]))
                bases, records = {}, []
                for i, row in enumerate(header["records"]):
                    modes = range(row.pop("modes"))
                    spectra = tuple(stored[f"{i}/{n}/spectrum"] for n in modes)
                    records.append(replace(_record(row, spectra), gradient_spectra=tuple(stored[f"{i}/{n}/gradient"] for n in modes)))
                    bases[records[-1].name] = tuple(torch.from_numpy(stored[f"{i}/{n}/basis"]) for n in modes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a calibration, or is damaged; make it again with calibrate(...).save") from error
        return cls(tuple(records), bases, header["samples"], header["model_id"])


def calibrate(
    program: TrainableProgram,
    batches: Iterable[tuple[Any, Any]],
    eps_grid: Sequence[float] = EPS_GRID,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] | None = None,
) -> Calibration:
    """What `batches`, (samples [B, ...], labels [B]) that can be gone through twice, tell of the layers (all of them where none are named).

    Raises DataError for an empty stream, labels out of range or samples of another shape.
    """
    chosen = [layer for name, layer in program.by_name.items() if layers is None or name in layers]
    pairs = [(checked_samples(x, program), y) for x, y in batches]
    if not pairs:
        raise DataError("the calibration data has no batch; give at least one, better eight")
    grams: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for x, _ in pairs:
            _visit(program, x, None, {layer.name: _adding(grams, layer) for layer in chosen})
    found = {layer.name: [spectrum(gram) for gram in grams[layer.name]] for layer in chosen}
    bases = {name: tuple(directions.float() for _, directions in modes) for name, modes in found.items()}
    records = {layer.name: replace(layer.record, spectra=tuple(e.numpy() for e, _ in found[layer.name])) for layer in chosen}
    bases, records = _by_gradient(program, chosen, pairs[:LEARNED_FROM], grams, bases, records)
    judges = {layer.name: _Judge(layer, records[layer.name], bases[layer.name], eps_grid, methods) for layer in chosen}
    for x, y in pairs[:COMPARED]:
        _visit(program, x, checked_labels(y, x.shape[0], program.classes), {name: judge.see for name, judge in judges.items()})
    records = {name: judge.record() for name, judge in judges.items()}
    everything = tuple(records.get(layer.name, layer.record) for layer in program.by_name.values())
    return Calibration(everything, bases, sum(x.shape[0] for x, _ in pairs), program.model_id)


def ranks_for(record: LayerRecord, method: str, eps: float, samples: int = RANK_SAMPLES) -> tuple[int, ...]:
    """Ranks of a layer's modes, batch first, for a method at a share of energy; () where each batch decides (hosvd, svd).

    fixed and asi share one error budget among the modes; an adapter cuts the channels alone. 0: the mode stays whole.
    """
    match method:
        case "fixed" | "asi":  # either holds its bases once, for all samples or for those of a batch
            known = record.gradient_spectra if method == "fixed" and record.gradient_spectra else record.spectra
            return (0, *ranks_global(known, record.input_shape, eps, samples))
        case "adapter":
            mode = 0 if record.op == "conv2d" else len(record.input_shape) - 1
            rank = ranks_per_mode([(record.gradient_spectra or record.spectra)[mode]], eps)[0]
            return (0, *(rank if n == mode and rank < WHOLE_FROM * length else 0 for n, length in enumerate(record.input_shape)))
    return ()


class _Judge:
    """Compares the gradients of every method at every eps with the exact one, batch after batch."""

    def __init__(self, layer: Layer, record: LayerRecord, bases: tuple[Tensor, ...], eps_grid: Sequence[float], methods: Sequence[str]) -> None:
        self.layer, self._record, self._norms, self._bias_norms = layer, record, [0.0], [0.0]
        self._ways: dict[tuple[str, float], Compressor] = {}
        for method in methods:
            for eps in eps_grid if method != "adapter" or record.groups == 1 else ():
                self._ways[method, eps] = _compressor(record, bases, method, eps)
        self._cosines: dict[tuple[str, float], list[float]] = {way: [] for way in self._ways}
        self._norms, self._bias_norms = [], []

    def see(self, step: Step, x: Tensor, dy: Tensor) -> None:
        """One batch's input and output gradient."""
        exact = self._gradient(step, compressors.exact().compress(x), dy)
        bias = linear_bias_grad(dy) if step.kind == "linear" else conv_bias_grad(dy)
        if self.layer.fold is not None and self.layer.fold.own_bias:
            bias = bias * self.layer.fold.scale
        norm = float(torch.linalg.vector_norm(exact))
        self._norms.append(norm)
        self._bias_norms.append(float(torch.linalg.vector_norm(bias)))
        for way, compressor in self._ways.items():
            rough = self._gradient(step, compressor.compress(x), dy)
            scale = norm * float(torch.linalg.vector_norm(rough))
            self._cosines[way].append(float((rough.double() * exact).sum()) / scale if scale > 0 else 0.0)

    def record(self) -> LayerRecord:
        """The layer's record with what was seen."""
        means = {way: float(np.mean(seen)) for way, seen in self._cosines.items() if seen}
        norm, bias_norm = (float(np.mean(seen)) if seen else 0.0 for seen in (self._norms, self._bias_norms))
        return replace(self._record, gradient_norm=norm, bias_gradient_norm=bias_norm, cosines=means)

    def _gradient(self, step: Step, saved: Saved, dy: Tensor) -> Tensor:
        return _gradient(self.layer, step, saved, dy)


def _gradient(layer: Layer, step: Step, saved: Saved, dy: Tensor) -> Tensor:
    """The weight gradient in the source model's terms: a folded batch norm's scale is in it."""
    if step.kind == "linear":
        return linear_weight_grad(saved, dy)
    grad = conv_weight_grad(saved, dy, step.args[3], (layer.record.weight_shape[2], layer.record.weight_shape[3]))
    return grad if layer.fold is None else grad * layer.fold.scale.reshape(-1, 1, 1, 1)


def _by_gradient(
    program: TrainableProgram,
    layers: Sequence[Layer],
    pairs: Sequence[tuple[Tensor, Any]],
    grams: Mapping[str, Sequence[Tensor]],
    bases: Mapping[str, tuple[Tensor, ...]],
    records: Mapping[str, LayerRecord],
) -> tuple[dict[str, tuple[Tensor, ...]], dict[str, LayerRecord]]:
    """(bases, records): each layer's feature directions turned to where its gradients lie, and the gradient's spectra along all modes."""
    features = {layer.name: _features(layer.record) for layer in layers}
    seen: dict[str, Tensor] = {}
    known: dict[str, Sensitivity] = {}

    def adding(layer: Layer) -> Visit:
        def visit(step: Step, x: Tensor, dy: Tensor) -> None:
            if features[layer.name] is not None:
                gram = gradient_gram(x, dy, partial(_gradient, layer, step))
                seen[layer.name] = gram if layer.name not in seen else seen[layer.name] + gram

        return visit

    def trying(layer: Layer) -> Visit:
        def visit(step: Step, x: Tensor, dy: Tensor) -> None:
            if layer.name not in known:
                known[layer.name] = Sensitivity(turned[layer.name], partial(_gradient, layer, step), features[layer.name])
            known[layer.name].see(x, dy)

        return visit

    turned = dict(bases)
    for make in (adding, trying):
        for x, y in pairs:
            _visit(program, x, checked_labels(y, x.shape[0], program.classes), {layer.name: make(layer) for layer in layers})
        for name, gram in seen.items() if make is adding else ():
            n = (features[name] or 0) - 1
            turned[name] = tuple(directions(gram, grams[name][n]).float() if i == n else basis for i, basis in enumerate(bases[name]))
    return turned, {name: replace(record, gradient_spectra=known[name].spectra(grams[name])) for name, record in records.items()}


def _features(record: LayerRecord) -> int | None:
    """The mode of the input, batch counted, that goes with the weight's second dimension; None for a convolution with groups."""
    if record.op == "linear":
        return len(record.input_shape)
    return 1 if record.groups == 1 else None


def _compressor(record: LayerRecord, bases: tuple[Tensor, ...], method: str, eps: float) -> Compressor:
    ranks = ranks_for(record, method, eps)
    match method:
        case "hosvd":
            return compressors.hosvd(eps)
        case "svd":
            return compressors.svd(eps)
        case "asi":
            return compressors.asi(ranks)
        case "fixed" | "adapter":
            return compressors.fixed([basis[:, :rank] if rank else None for basis, rank in zip(bases, ranks[1:], strict=True)])
    raise UsageError(f"method {method!r} cannot be calibrated; choose from fixed, adapter, asi, hosvd and svd")


Visit = Callable[[Step, Tensor, Tensor], None]


def _adding(grams: dict[str, list[Tensor]], layer: Layer) -> Visit:
    """A visit that adds the input's Gram matrices, float64, to those of the batches before."""

    def visit(step: Step, x: Tensor, _: Tensor) -> None:
        new = [unfold_gram(x, mode, double=True) for mode in range(1, x.dim())]
        old = grams.get(layer.name)
        grams[layer.name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    return visit


def _visit(program: TrainableProgram, x: Tensor, y: Tensor | None, visits: Mapping[str, Visit]) -> None:
    """Runs one batch; with labels backward too, and then a layer's visit sees its input and its output's gradient, else its input alone."""
    anchor = torch.zeros((), requires_grad=True)
    idle = Updates({}, {}, 1.0)
    steps = [step for step in program.steps if step.kind != "scalar"]
    runs = {
        s.name: _observed(s, visits[s.layer], anchor, y is not None) if s.layer in visits else live_run(s, program, None, idle, anchor, False) for s in steps
    }
    part = sections.section(steps, runs, program, (program.output,))
    logits = part(sections.start(program, {}, {program.input: x}, x.shape[0]))[program.output]
    if y is not None:
        F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]


def _observed(step: Step, visit: Visit, anchor: Tensor, backward: bool) -> sections.Run:
    x, weight, bias = step.args[:3]

    def run(env: Mapping[str, Any]) -> Any:
        if not backward:
            visit(step, env[x.name], env[x.name])
        return _Observed.apply(env[x.name], widened(env[weight.name]), None if bias is None else env[bias.name], anchor, step, visit)

    return run


class _Observed(torch.autograd.Function):
    """A layer that shows its input and its output's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, step: Step, visit: Visit) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.step, ctx.visit = step, visit
        return F.linear(x, weight, bias) if step.kind == "linear" else convolution(x, weight, bias, step.args[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        ctx.visit(ctx.step, x, dy)
        if not ctx.needs_input_grad[0]:
            return (None,) * 6
        dx = linear_input_grad(dy, weight) if ctx.step.kind == "linear" else conv_input_grad(dy, weight, x.shape, ctx.step.args[3])
        return dx, None, None, None, None, None


def _row(record: LayerRecord) -> dict[str, Any]:
    names = ("name", "op", "input_shape", "output_shape", "weight_shape", "stride", "dilation", "padding", "groups", "has_bias", "activation")
    row = {name: getattr(record, name) for name in names}
    cosines = [[method, eps, cosine] for (method, eps), cosine in record.cosines.items()]
    return {**row, "norms": [record.gradient_norm, record.bias_gradient_norm], "cosines": cosines, "modes": len(record.spectra)}


def _record(row: dict[str, Any], spectra: tuple[np.ndarray, ...]) -> LayerRecord:
    norm, bias_norm = row.pop("norms")
    cosines = {(method, eps): cosine for method, eps, cosine in row.pop("cosines")}
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return LayerRecord(**known, spectra=spectra, gradient_norm=norm, bias_gradient_norm=bias_norm, cosines=cosines)
