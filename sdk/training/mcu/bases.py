"""Channel bases: what a layer's input varies in, learnt from calibration data on the host, in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sdk.errors import DataError
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.training.mcu.layers import Layer, find_layers

#: Samples at once through the interpreter.
_BATCH = 16


def channel_grams(graph: Graph, samples: Sequence[np.ndarray], layers: Iterable[Layer] | None = None) -> dict[str, np.ndarray]:
    """Layer name -> Gram matrix [C, C] float64 of its input's channels, summed over pixels and samples, depthwise layers left out.

    samples: arrays as the graph takes them, [1, ...] each. The values are the real ones that the graph's integers stand for.
    Raises DataError where there is no sample.
    """
    chosen = [layer for layer in (find_layers(graph) if layers is None else layers) if not layer.is_depthwise]
    if not len(samples):
        raise DataError("adapters take their bases from calibration data, and none was given; give calibration=, a few hundred real inputs")
    grams = {layer.name: np.zeros((graph[layer.node.inputs[0]].shape[-1],) * 2) for layer in chosen}
    inner = {layer.name: layer.node.inputs[0] for layer in chosen}
    for start in range(0, len(samples), _BATCH):
        values = run(graph, {graph.inputs[0]: np.concatenate(samples[start : start + _BATCH])}, keep=True)
        for name, tensor in inner.items():
            rows = real_values(graph, tensor, values[tensor]).reshape(-1, grams[name].shape[0])
            grams[name] += rows.T @ rows
    return grams


def real_values(graph: Graph, name: str, value: np.ndarray) -> np.ndarray:
    """What the stored `value` of an activation stands for, float64."""
    tensor = graph[name]
    if tensor.quant is None:
        return np.asarray(value, np.float64)
    return (np.asarray(value, np.float64) - tensor.zero_point) * tensor.scale


def bases_of(grams: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layer name -> eigenvectors [C, C] float64 of its Gram matrix, the most energetic first; each one's largest entry is positive."""
    return {name: _vectors(gram) for name, gram in grams.items()}


def spectra_of(grams: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layer name -> eigenvalues [C], falling, none below 0."""
    return {name: np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0) for name, gram in grams.items()}


def channel_bases(graph: Graph, samples: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """`bases_of(channel_grams(...))` of every layer that can have an adapter."""
    return bases_of(channel_grams(graph, samples))


def _vectors(gram: np.ndarray) -> np.ndarray:
    vectors = np.linalg.eigh(gram)[1][:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def rank_for(spectrum: np.ndarray, eps: float) -> int:
    """The least rank that keeps the share `eps` of a falling spectrum's energy; at least 1."""
    total = float(spectrum.sum())
    if total <= 0:
        return 1
    return min(len(spectrum), int(np.searchsorted(np.cumsum(spectrum) / total, eps - 1e-12)) + 1)
