"""The weight gradient of a linear layer from its compressed input, for inputs of two to four dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from sdk.training.nn.modes import project
from sdk.training.nn.saved import Saved


def linear_weight_grad(saved: Saved, dy: Tensor) -> Tensor:
    """[O, I] from what was kept of the input [B, .., I] and dy [B, .., O]. Samples and tokens are summed in one product, not by broadcasting."""
    *others, features = saved.bases()
    core = saved.core()
    dy = project(dy, (*others, None))
    reduced = dy.reshape(-1, dy.shape[-1]).t() @ core.reshape(-1, core.shape[-1])  # [O, K]
    return reduced if features is None else reduced @ features.t()


def linear_bias_grad(dy: Tensor) -> Tensor:
    """[O]: dy summed over samples and tokens."""
    return dy.reshape(-1, dy.shape[-1]).sum(0)


def linear_input_grad(dy: Tensor, weight: Tensor) -> Tensor:
    """dx [B, .., I]: exact, from dy and the weight alone."""
    return torch.matmul(dy, weight)
