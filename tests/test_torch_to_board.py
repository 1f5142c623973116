"""From a torch module to a flashed board: float and int8, each proved on the emulated board and compared with torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import sdk  # noqa: E402
from sdk.errors import DataError, UnsupportedOp  # noqa: E402
from tests.torch_cases import Of  # noqa: E402
from tests.torch_nets import FAMILIES, Family, outputs_of, structured  # noqa: E402

#: A net for each kind of arithmetic; the others are in the long tier.
EVERYDAY = ("mobilenet_v3", "encoder_torch")
#: Least signal to quantisation noise of the outputs, in dB, with random weights. Measured 2026-11-27: 23.0 (mcunet, seven-by-seven
#: depthwise layers with random weights) to 38.0 (encoder_torch).
LEAST_DB = 20.0


def families() -> list[object]:
    return [f if f in EVERYDAY else pytest.param(f, marks=pytest.mark.long) for f in FAMILIES]


@contextmanager
def proved(plan: sdk.Plan) -> Iterator[sdk.session.Session]:  # type: ignore[name-defined]
    """A session on the emulated board, after its proof against the interpreter."""
    assert plan.fits, plan.mends
    with sdk.compile(plan).flash("emulator") as session:
        proof = session.verify()
        assert proof.ok and proof.bytes_compared > 0
        assert proof.bytes_equal == proof.bytes_compared or proof.largest_difference < 1e-5
        yield session


@pytest.mark.parametrize("name", families())
def test_int8_on_the_board_is_bit_exact_and_close_to_torch(name: str) -> None:
    family = FAMILIES[name]
    net, x = family.net(), family.samples(4, seed=9)
    plan = sdk.plan("stm32f746", sdk.load(net, x[:1]), calibration=family.samples(64))
    assert {plan.graph[n].dtype for n in (*plan.graph.inputs, *plan.graph.outputs)} == {"int8"}
    assert not {"quantize", "dequantize"} & {n.op for n in plan.graph.nodes}  # every layer has its integers
    with proved(plan) as session:
        proof = session.verify()
        assert proof.bytes_equal == proof.bytes_compared
        found = np.concatenate([session.run(x[i : i + 1]) for i in range(len(x))])
    (wanted,) = outputs_of(net, x)
    noise = np.square(found - wanted).sum() / np.square(wanted).sum()
    assert -10 * np.log10(noise) > LEAST_DB


@pytest.mark.parametrize("name", families())
def test_float_on_the_board_is_torch_up_to_rounding(name: str) -> None:
    family = FAMILIES[name]
    net, x = family.net(), family.samples(1, seed=9)
    with proved(sdk.plan("stm32h743", sdk.load(net, x), precision="float32")) as session:
        np.testing.assert_allclose(session.run(x), outputs_of(net, x)[0], atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("device", ["nrf5340", "rp2040"])
@pytest.mark.parametrize("name", ["mobilenet_v3", "encoder_causal"])
def test_cores_without_the_other_ones_instructions_agree(name: str, device: str) -> None:
    family = FAMILIES[name]
    with proved(sdk.plan(device, sdk.load(family.net(), family.samples(1)), calibration=family.samples(32))):
        pass


@pytest.mark.long
def test_channel_last_pictures_go_in_as_the_camera_gives_them() -> None:
    family = FAMILIES["mobilenet_v2"]
    net, x = family.net(), family.samples(1, seed=9)
    model = sdk.load(net, x, input_layout="nhwc")
    plan = sdk.plan("stm32f746", model, calibration=family.samples(64).transpose(0, 2, 3, 1))
    assert "transpose" not in {n.op for n in plan.graph.nodes}
    with proved(plan) as session:
        found = session.run(x.transpose(0, 2, 3, 1).copy())
    np.testing.assert_allclose(found, outputs_of(net, x)[0], atol=0.1)


def calibrations(x: np.ndarray) -> dict[str, object]:
    """`x` [n, 7, 10], n samples of a model that takes [7, 10], in every way a user may hold them."""
    return {"stacked": x, "joined": x.reshape(-1, 10), "a list": list(x), "a mapping": {"input": x}, "a generator": (row for row in x)}


@pytest.mark.parametrize("form", calibrations(np.zeros((1, 7, 10))))
def test_models_without_a_batch_dimension_are_calibrated_by_whole_samples(form: str) -> None:
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Linear(10, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)), structured((24, 7, 10))
    plan = sdk.plan("stm32f746", sdk.load(net, x[0]), calibration=calibrations(x)[form])
    other = sdk.plan("stm32f746", sdk.load(net, x[0]), calibration=x)
    assert {t.name: t.quant for t in plan.graph.activations()} == {t.name: t.quant for t in other.graph.activations()}
    low, high = (plan.graph["input"].scale * (q - plan.graph["input"].zero_point) for q in (-128, 127))
    assert low <= x.min() + 0.05 and high >= x.max() - 0.05  # all rows of all samples were seen


def test_half_a_sample_is_refused() -> None:
    model = sdk.load(torch.nn.Linear(10, 3), np.zeros((7, 10), np.float32))
    with pytest.raises(DataError, match=r"has shape \[9, 10\] where input input wants \[n, 7, 10\]"):
        sdk.plan("stm32f746", model, calibration=np.zeros((9, 10), np.float32))


@pytest.mark.long
def test_a_model_of_reshapes_only_has_no_step_and_runs() -> None:
    x = structured((4, 2, 6))
    for options in ({"precision": "float32"}, {"calibration": x}):
        with proved(sdk.plan("stm32f746", sdk.load(torch.nn.Flatten(), x[:1]), **options)) as session:
            np.testing.assert_allclose(session.run(x[:1]), x[:1].reshape(1, 12), atol=0.02)


@pytest.mark.long
def test_one_number_without_dimensions_is_an_output_too() -> None:
    x = structured((8, 2, 6))
    for options in ({"precision": "float32"}, {"calibration": x}):
        with proved(sdk.plan("stm32f746", sdk.load(Of(lambda v: v.square().mean()), x[:1]), **options)) as session:
            found = session.run(x[:1])
            assert found.shape == ()
            np.testing.assert_allclose(found, np.square(x[:1]).mean(), rtol=0.1)


def test_an_op_without_a_kernel_is_refused_when_planning() -> None:
    family = Family(lambda: Of(lambda x: (x.cumsum(1) * 2).relu()), (1, 6))
    for options in ({"precision": "float32"}, {"calibration": family.samples(4)}):
        with pytest.raises(UnsupportedOp, match=r"aten::cumsum.*replace it"):
            sdk.plan("stm32f746", sdk.load(family.net(), family.samples(1)), **options)
