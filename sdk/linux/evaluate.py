"""Accuracy on the user's data, or agreement with the source where there are no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sdk.data import Calibration, read
from sdk.errors import DataError
from sdk.model import Model
from sdk.planner.linux_records import Evaluation

#: Samples used where nothing but calibration data can judge.
MOST_STAND_INS = 256


def evaluation_of(model: Model, data: Any, calibration: Calibration | None) -> Evaluation | None:
    """`data` is (inputs [n, ...], labels [n]); without it the calibration samples judge by agreement; None when there are none.

    Raises DataError when inputs and labels do not match.
    """
    if data is None:
        if calibration is None:
            return None
        return Evaluation(_rows(model, calibration.spread(MOST_STAND_INS)), None, "agreement with the source model on the calibration samples")
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError("evaluation data is a pair (inputs, labels); give for example evaluation=(x, y) with x [n, ...] and y [n]")
    labels = np.asarray(data[1])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"the labels have shape {list(labels.shape)} and type {labels.dtype}; give one whole number for each input")
    samples = _rows(model, read(data[0], model.graph, limit=len(labels) or 1))
    if len(samples) != len(labels):
        raise DataError(f"there are {len(samples)} inputs and {len(labels)} labels; give one label for each input")
    return Evaluation(samples, labels.astype(np.int64), f"top-1 accuracy on {len(labels):,} samples")


def _rows(model: Model, data: Calibration) -> tuple[tuple[np.ndarray, ...], ...]:
    return tuple(tuple(row[name] for name in model.graph.inputs) for row in (data.load(i) for i in range(data.count)))


def answers(run: Callable[[tuple[np.ndarray, ...]], Any], evaluation: Evaluation, progress: Callable[[int], None] | None = None) -> np.ndarray:
    """int64 [n]: the index of the largest entry of the first output, for every sample."""
    return np.array(list(_answers(run, evaluation.samples, progress)), np.int64)


def _answers(run: Callable[[tuple[np.ndarray, ...]], Any], samples: Iterable[tuple[np.ndarray, ...]], progress: Callable[[int], None] | None) -> Iterable[int]:
    for index, sample in enumerate(samples):
        found = run(sample)
        first = found[0] if isinstance(found, (tuple, list)) else found
        yield int(np.asarray(first).reshape(-1).argmax())
        if progress:
            progress(index + 1)


def share_right(given: np.ndarray, evaluation: Evaluation, source: np.ndarray) -> float:
    """Share of answers that are right or, without labels, the source's."""
    wanted = source if evaluation.labels is None else evaluation.labels
    return float((given == wanted).mean())
