"""How compressed inputs are held: in 8 bits where nothing else is asked for, which must cost the gradients no direction."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.errors import UsageError
from sdk.planner.training import kept
from sdk.planner.training.make import Case, make_training_plan
from sdk.planner.training.spec import METHODS, Training
from sdk.planner.training.walk import walk_of
from targets.device import load_device

torch = pytest.importorskip("torch")
from sdk.training.nn.calibrate import ranks_for  # noqa: E402
from sdk.training.nn.compressors import Asi  # noqa: E402
from sdk.training.nn.trainer import Trainer  # noqa: E402
from tests import training_peaks as peaks  # noqa: E402

IN_8_BITS = {"fixed", "asi", "adapter"}


def moved(net: str, method: str, factors: str) -> tuple[np.ndarray, Trainer]:
    """What one step of plain SGD at a rate of 1 does to all weights, as one vector; and the trainer."""
    one = Trainer(peaks.program(net, 32), peaks.choices(net, 32, method, 99, factors), peaks.calibration(net, 32), Training(batch=16, learning_rate=1.0))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.step(*peaks.data(32, 16))
    return np.concatenate([(value - before[name]).float().numpy().ravel() for name, value in one.state_dict().items()]), one


@pytest.mark.parametrize("method", sorted(IN_8_BITS))
def test_8_bits_keep_the_direction_and_a_fraction_of_the_bytes(method):
    (whole, as_is), (rounded, small) = moved("mobile", method, "float32"), moved("mobile", method, "int8")
    assert whole @ rounded / np.linalg.norm(whole) / np.linalg.norm(rounded) > 0.999
    assert np.linalg.norm(rounded) / np.linalg.norm(whole) == pytest.approx(1.0, abs=0.01)
    records = {record.name: record for record in peaks.calibration("mobile", 32).records}
    projected = sum(kept.input_bytes(records[c.layer], c, 16) for c in as_is.choices if c.method == method)
    saved = as_is.saved_bytes().batch - small.saved_bytes().batch  # the rest, masks above all, is the same
    assert saved > (0.3 if method == "asi" else 0.5) * projected > 0


def test_bases_that_follow_the_batches_are_kept_once():
    """The next batch starts from them, so they stay; a rounded copy beside them would only add bytes."""
    _, one = moved("mobile", "asi", "int8")
    compressor = next(x.compressor for x in one.learners.values() if isinstance(x.compressor, Asi))
    saved = compressor.compress(torch.randn(16, *compressor_shape(one, compressor)))
    held = {t.data_ptr() for t in saved.tensors}
    assert all(basis.data_ptr() in held for basis in compressor.bases[1:] if basis is not None)
    assert saved.tensors[0].dtype == torch.int8


def compressor_shape(one: Trainer, compressor: Asi) -> tuple[int, ...]:
    name = next(name for name, learner in one.learners.items() if learner.compressor is compressor)
    return tuple(one.program.by_name[name].record.input_shape)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_what_is_held_in_8_bits_is_said_by_the_method_unless_it_was_asked_for(method):
    assert Training().factors_of(method) == ("int8" if method in IN_8_BITS else "float32")
    assert all(Training(factors=kind).factors_of(method) == kind for kind in ("float32", "float16", "int8"))


@pytest.mark.parametrize("method", ("fixed", "asi", "exact"))
def test_a_plan_holds_what_it_projects_in_8_bits_and_says_so(method):
    found = peaks.program("mobile", 32)
    case = Case("mobile", load_device("rpi-4b"), walk_of(found), peaks.calibration("mobile", 32).records, ranks_for, 1 << 30, 1000)
    asked = {kind: make_training_plan(case, Training(layers="all", method=method, eps=0.8, factors=kind)) for kind in ("auto", "float32")}
    kinds = {choice.factors for choice in asked["auto"].choices if choice.method == method}
    assert kinds == {"float32" if method == "exact" else "int8"}
    assert ("8 bits" in " ".join(asked["auto"].decisions)) == (method != "exact")
    assert "8 bits" not in " ".join(asked["float32"].decisions)
    saved = {kind: plan.bytes["saved"] for kind, plan in asked.items()}
    assert saved["auto"] == saved["float32"] if method == "exact" else saved["auto"] < saved["float32"]


def test_another_kind_is_refused():
    with pytest.raises(UsageError, match="'int4' is not known; choose one of auto, float32, float16, int8"):
        Training(factors="int4")
