"""A calibration run on the host: the spectra and bases of every layer's input, gradient norms, and how well each method would do.

The first pass over the data adds up a Gram matrix for every mode of every layer's input; two over a few batches turn the bases to where the
gradients lie and find how much each direction matters; the last compares, layer by layer and batch by batch, the weight gradient of each
method with the exact one. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import DataError, UsageError
from sdk.planner.training.records import FRACTIONS, LayerRecord
from sdk.training.nn import compressors
from sdk.training.nn.calibration import RANK_SAMPLES, Calibration, ranks_for
from sdk.training.nn.conv_grad import conv_bias_grad, conv_weight_grad
from sdk.training.nn.data import checked_labels, checked_samples
from sdk.training.nn.decompose import spectrum
from sdk.training.nn.linear_grad import linear_bias_grad, linear_weight_grad
from sdk.training.nn.modes import unfold_gram
from sdk.training.nn.observe import Visit, visit_layers
from sdk.training.nn.program import Layer, Step, TrainableProgram
from sdk.training.nn.saved import Compressor, Saved
from sdk.training.nn.sensitivity import Sensitivity, directions, energies, gradient_gram

__all__ = ["COMPARED", "EPS_GRID", "LEARNED_FROM", "METHODS", "RANK_SAMPLES", "Calibration", "calibrate", "ranks_for"]

EPS_GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
METHODS = ("fixed", "hosvd", "asi", "adapter")
#: Batches on which methods are compared: gradients differ far more between batches than between methods, so a few tell enough.
COMPARED = 8
#: Methods of which each batch decides the ranks.
PER_BATCH = ("hosvd", "svd")
#: Batches whose gradients choose the directions and ranks of fixed bases: with 16 of 32 pictures instead of 4, a net that learned pictures taken in
#: the dark came 0.3 points nearer to exact training; one that learned another device's movements with 8 instead of 4 fell 0.7 points farther
#: behind by adapters (three seeds each, which lie as far apart).
LEARNED_FROM = 16


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
            visit_layers(program, x, None, {layer.name: _adding(grams, layer) for layer in chosen})
    found = {layer.name: [spectrum(gram) for gram in grams[layer.name]] for layer in chosen}
    bases = {name: tuple(directions.float() for _, directions in modes) for name, modes in found.items()}
    records = {layer.name: replace(layer.record, spectra=tuple(e.numpy() for e, _ in found[layer.name])) for layer in chosen}
    bases, records = _by_gradient(program, chosen, pairs[:LEARNED_FROM], grams, bases, records)
    judges = {layer.name: _Judge(layer, records[layer.name], bases[layer.name], eps_grid, methods) for layer in chosen}
    for x, y in pairs[:COMPARED]:
        visit_layers(program, x, checked_labels(y, x.shape[0], program.classes), {name: judge.see for name, judge in judges.items()})
    records = {name: judge.record() for name, judge in judges.items()}
    everything = tuple(records.get(layer.name, layer.record) for layer in program.by_name.values())
    return Calibration(everything, bases, sum(x.shape[0] for x, _ in pairs), program.model_id)


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
        self._ranks: dict[tuple[str, float], list[tuple[int, ...]]] = {way: [] for way in self._ways if way[0] in PER_BATCH}

    def see(self, step: Step, x: Tensor, dy: Tensor) -> None:
        """One batch's input and output gradient."""
        exact = self._gradient(step, compressors.exact().compress(x), dy)
        bias = linear_bias_grad(dy) if step.kind == "linear" else conv_bias_grad(dy)
        if self.layer.fold is not None and self.layer.fold.own_bias:
            bias = bias * self.layer.fold.scale
        norm = float(torch.linalg.vector_norm(exact))
        self._norms.append(norm)
        self._bias_norms.append(float(torch.linalg.vector_norm(bias)))
        for fraction in FRACTIONS if self.layer.record.groups == 1 else ():
            part = exact[:, : max(1, round(exact.shape[1] * fraction))]  # what the first channels learn is the exact gradient's own part
            self._cosines.setdefault(("channels", fraction), []).append(float(torch.linalg.vector_norm(part)) / norm if norm > 0 else 0.0)
        for way, compressor in self._ways.items():
            saved = compressor.compress(x)
            if way in self._ranks:
                self._ranks[way].append((x.shape[0], *saved.ranks))
            rough = self._gradient(step, saved, dy)
            scale = norm * float(torch.linalg.vector_norm(rough))
            self._cosines[way].append(float((rough.double() * exact).sum()) / scale if scale > 0 else 0.0)

    def record(self) -> LayerRecord:
        """The layer's record with what was seen."""
        means = {way: float(np.mean(seen)) for way, seen in self._cosines.items() if seen}
        norm, bias_norm = (float(np.mean(seen)) if seen else 0.0 for seen in (self._norms, self._bias_norms))
        ranks = {way: tuple(seen) for way, seen in self._ranks.items()}
        return replace(self._record, gradient_norm=norm, bias_gradient_norm=bias_norm, cosines=means, batch_ranks=ranks)

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
            visit_layers(program, x, checked_labels(y, x.shape[0], program.classes), {layer.name: make(layer) for layer in layers})
        for name, gram in seen.items() if make is adding else ():
            n = (features[name] or 0) - 1
            turned[name] = tuple(directions(gram, grams[name][n]).float() if i == n else basis for i, basis in enumerate(bases[name]))
    seen_by = {name: known[name].spectra(grams[name]) if name in known else records[name].spectra for name in records}  # a layer may have no gradient
    return turned, {
        name: replace(record, gradient_spectra=seen_by[name], energy_spectra=energies(grams[name], turned[name])) for name, record in records.items()
    }


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


def _adding(grams: dict[str, list[Tensor]], layer: Layer) -> Visit:
    """A visit that adds the input's Gram matrices, float64, to those of the batches before."""

    def visit(step: Step, x: Tensor, _: Tensor) -> None:
        new = [unfold_gram(x, mode, double=True) for mode in range(1, x.dim())]
        old = grams.get(layer.name)
        grams[layer.name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    return visit
