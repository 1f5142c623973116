"""int8 loses at most one point of accuracy: on digits trained here, and on CIFAR-10 with the shipped nets."""

from __future__ import annotations

import numpy as np
import pytest

import sdk
from tests.data import shared

POINT = 0.01


@pytest.fixture(scope="module")
def digits() -> tuple[object, object, np.ndarray, np.ndarray]:
    """(trained net, its data split, ...): scikit-learn's digits and the net of the demo, trained in seconds."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from examples import demo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "EPOCHS", 10)  # enough for 95 per cent, in a third of the time
        data = demo.digits()
        return demo.train(data), data, data.test_x, data.test_y


@pytest.mark.parametrize("choice", ["minmax", "percentile", "mse"])
def test_digits_lose_at_most_a_point_in_int8(digits, choice: str) -> None:
    import torch

    from sdk.golden import quantise_array
    from sdk.graph.interpreter import run

    net, data, x, y = digits
    with torch.no_grad():
        real = float((net(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
    assert real > 0.95, "the float net has learned its task"
    plan = sdk.plan("stm32f405", sdk.load(net, example=torch.from_numpy(x[:1])), calibration=data.train_x[:200], quant={"range": choice})
    graph = plan.graph
    logits = run(graph, {graph.inputs[0]: quantise_array(graph[graph.inputs[0]], x)})[graph.outputs[0]]
    assert float((logits.argmax(1) == y).mean()) >= real - POINT


@pytest.mark.long
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mcunet_like", "resnet18_quarter"])
def test_cifar_nets_lose_at_most_a_point_in_int8_and_the_board_agrees(name: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    from benchmarks import mcu_accuracy

    folder = shared("cifar10/cifar10_jpeg_test.npz").parent
    shared("cifar10/cifar10_jpeg_train.npz")
    found = {row.metric: row.value for row in mcu_accuracy.rows(folder, (name,), 2500)}
    assert found["accuracy_float"] > 0.75, "the shipped weights are those of the trained net"
    assert found["accuracy"] >= found["accuracy_float"] - POINT
    assert found["exact_fraction"] == 1.0
