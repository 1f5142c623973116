"""How large each tensor becomes on the user's samples, and from that a symmetric int8 scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sdk.backends.foreign import one_sentence, require
from sdk.backends.onnx.export import ports
from sdk.backends.samples import arrays
from sdk.errors import DataError
from sdk.passes.ranges import Histogram, percentile_range

#: TensorRT's activations are symmetric: real = scale * q, q in [-128, 127]; the largest value stands at 127.
LEVELS = 127
_TINY = 1e-12
RANGES = ("minmax", "percentile", "mse")


def histograms(model: Any, tensors: Iterable[str], samples: Any) -> dict[str, Histogram]:
    """The values that each of `tensors` took over the samples; `model` is a float ModelProto, run by ONNX Runtime on the CPU.

    samples: as `sdk.backends.samples` reads them, one at a time. Raises DataError for none, for ones that do not fit and where a
    tensor becomes NaN or infinite; UsageError without onnxruntime.
    """
    names, inputs = sorted(set(tensors)), ports(model)[0]
    found: dict[str, Histogram] = {}
    session = watching(model, names)
    for sample in arrays(samples, inputs):
        feed = {port.name: array for port, array in zip(inputs, sample, strict=True)}
        for name, value in {**feed, **computed(session, feed, names)}.items():
            if name in names:
                found[name] = _added(found.get(name), name, value)
    if not found:
        raise DataError("int8 needs calibration samples and there are none; give some inputs as calibration=")
    return found


def _added(have: Histogram | None, name: str, value: np.ndarray) -> Histogram:
    if not np.isfinite(value).all():
        raise DataError(f"tensor {name} became NaN or infinite on the calibration data; check how the samples are scaled, and the weights")
    return Histogram.of(value) if have is None else have.add(value)


def watching(model: Any, names: Sequence[str]) -> Any:
    """A session of ONNX Runtime in which the tensors `names` are outputs too."""
    import onnx

    ort = require("onnxruntime", "onnxruntime", "int8 calibration")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {v.name for v in (*model.graph.input, *model.graph.output)}
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in given)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # fused, a tensor in the middle would be computed twice
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def computed(session: Any, feed: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors of `names` that are no inputs."""
    wanted = [n for n in names if n not in feed]
    with one_sentence("the calibration samples cannot be run through the model", "give its inputs' shapes and types"):
        return dict(zip(wanted, session.run(wanted, feed), strict=True)) if wanted else {}


def symmetric_scale(histogram: Histogram, choice: str = "mse", percentile: float = 99.99) -> float:
    """The scale of a tensor: its largest value (`minmax`), almost its largest (`percentile`) or the limit of least error (`mse`), over 127.

    `symmetric_scale(Histogram.of(np.array([-1.27, 0.5])), "minmax")` is about 0.01.
    """
    used = np.flatnonzero(histogram.counts)
    if used.size == 0:
        return 1 / LEVELS
    low, high = float(histogram.edges[used[0]]), float(histogram.edges[used[-1] + 1])
    if choice == "percentile":
        low, high = percentile_range(low, high, histogram, percentile)
    limit = max(abs(low), abs(high))
    if choice == "mse":
        limit = _least_error(histogram, used, limit)
    return limit / LEVELS if limit > _TINY else 1 / LEVELS


def _least_error(histogram: Histogram, used: np.ndarray, peak: float) -> float:
    """The limit in (0, peak] with the least mean square error of rounding and clipping to 127 steps either side."""
    centres = np.abs((histogram.edges[:-1] + histogram.edges[1:])[used] / 2)
    weights = histogram.counts[used].astype(np.float64)

    def error(limit: float) -> float:
        step = limit / LEVELS
        beyond = np.maximum(centres - limit, 0.0)
        inside = np.where(centres > step / 2, step * step / 12, np.minimum(centres**2, step * step / 12))  # what rounds to 0 keeps its size
        return float(np.dot(weights, np.where(beyond > 0, beyond**2, inside)))

    return min(np.linspace(peak, peak * 0.1, 91), key=error)
