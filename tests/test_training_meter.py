"""The meter: known nets with known bytes, and the peak of a process that takes a known amount."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from sdk.errors import UsageError  # noqa: E402
from sdk.training.nn.meter import Meter, SavedBytes, peak_bytes, saved_bytes  # noqa: E402

MIB = 1 << 20


def test_a_linear_layer_keeps_its_input_and_its_weight():
    layer, x = nn.Linear(100, 50), torch.rand(8, 100, requires_grad=True)
    found = saved_bytes(lambda: layer(x), parameters=layer.parameters())
    assert found == SavedBytes(batch=8 * 100 * 4, parameters=50 * 100 * 4, constants=0) and found.total == 3200 + 20000


def test_views_count_as_the_storage_that_they_keep_alive_and_once():
    large = torch.rand(1000, 100, requires_grad=True)
    weight = nn.Parameter(torch.rand(10))
    found = saved_bytes(lambda: (large[:10, :10] * weight, large[:5, :10] * weight), parameters=[weight])
    assert found.batch == 1000 * 100 * 4


def test_nothing_is_counted_that_no_gradient_needs():
    layer, x = nn.Linear(100, 50).requires_grad_(False), torch.rand(8, 100)
    assert saved_bytes(lambda: layer(x), parameters=layer.parameters()).total == 0


def test_constants_are_told_apart_and_counted_whole():
    basis, x = torch.rand(100, 7), torch.rand(8, 100, requires_grad=True)
    found = saved_bytes(lambda: x @ basis, constants=[basis])
    assert found == SavedBytes(batch=0, parameters=0, constants=2800)


def test_watching_leaves_gradients_as_they_are_and_nothing_behind():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softmax(1)), torch.rand(2, 3, 6, 6)
    net[1].eval()
    net(x).pow(2).sum().backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    meter = Meter(net.parameters())
    with meter.watching():
        loss = net(x).pow(2).sum()
    loss.backward()
    assert all(torch.equal(p.grad, q) for p, q in zip(net.parameters(), plain, strict=True))
    assert meter.saved().batch > 0


def takes(mebibytes: int, keeps: int):
    """A task that holds `keeps` MiB ready and takes `mebibytes` more for a moment."""
    ready = torch.ones(keeps * MIB // 4)

    def run():
        return float(torch.ones(mebibytes * MIB // 4).sum() + ready[0])

    return run


def fails():
    raise ValueError("no such thing")


def test_the_peak_of_a_fresh_process_is_what_the_task_takes():
    assert 100 * MIB <= peak_bytes(takes, 100, 64).growth < 110 * MIB  # and not the 64 that it had before


def test_a_task_that_fails_is_told_in_one_sentence():
    with pytest.raises(UsageError, match=r"failed in its own process .*no such thing"):
        peak_bytes(fails)
