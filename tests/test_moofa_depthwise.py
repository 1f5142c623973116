"""The depthwise convolution with a weight gradient of its own equals the library's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sdk.prepare.moofa.nn.depthwise import PIXELS, TAPS, depthwise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("side", "size", "stride"), [(4, 7, 1), (4, 5, 1), (3, 7, 1), (4, 7, 2), (3, 5, 2), (8, 7, 2), (1, 7, 1), (2, 5, 1), (4, 3, 1), (9, 7, 1)]
)
def test_answers_and_gradients_are_the_librarys(side: int, size: int, stride: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(side * size)
    x = torch.randn(6, 10, side, side, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(10, 1, size, size, dtype=torch.float64, requires_grad=True)
    ours, theirs = depthwise(x, weight, stride), F.conv2d(x, weight, None, stride, size // 2, 1, 10)
    own = size >= TAPS and side * side <= PIXELS
    assert ("_Depthwise" in type(ours.grad_fn).__name__) is own  # the cases cover both ways
    upstream = torch.randn_like(theirs)
    assert torch.equal(ours, theirs)
    for got, want in zip(torch.autograd.grad(ours, (x, weight), upstream), torch.autograd.grad(theirs, (x, weight), upstream), strict=True):
        torch.testing.assert_close(got, want)


def test_part_of_a_larger_layers_weights_gets_its_gradient_and_a_frozen_one_none() -> None:
    whole = torch.randn(8, 1, 5, 5, requires_grad=True)
    x = torch.randn(3, 4, 4, 4)
    depthwise(x, whole[:4]).square().sum().backward()
    reference = whole.detach().clone().requires_grad_()
    F.conv2d(x, reference[:4], None, 1, 2, 1, 4).square().sum().backward()
    assert whole.grad is not None and reference.grad is not None
    torch.testing.assert_close(whole.grad, reference.grad)
    frozen = depthwise(x.requires_grad_(), whole.detach()[:4])
    frozen.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
