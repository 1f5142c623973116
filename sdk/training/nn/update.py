"""How trained values move: at once, inside the backward pass, or together, from gradients of micro-batches added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from sdk.errors import TrainingDiverged


class Updates:
    """SGD, with momentum or without, on named values in place.

    values: {key: tensor}, moved in place. scales: {key: float32 of a shape that broadcasts to it} multiplied into gradients (batch norms that
    were folded). together: keys whose gradients are always added up first, because several steps use the value. undo: keep each value as it
    was until the step is over, so that a step that fails half-way leaves nothing behind; costs as many bytes as the trained values.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        scales: Mapping[str, Tensor],
        learning_rate: float,
        momentum: float = 0.0,
        together: Iterable[str] = (),
        undo: bool = True,
    ) -> None:
        self.values, self.scales, self.learning_rate, self.momentum = dict(values), dict(scales), learning_rate, momentum
        self.velocities = {key: torch.zeros_like(value) for key, value in self.values.items()} if momentum else {}
        self._together, self._undo = frozenset(together), undo
        self._waiting: dict[str, Tensor] = {}
        self._before: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._all_together = False

    def begin(self, micro_batches: int = 1) -> None:
        """A step begins; with more than one micro-batch its gradients are added up and applied by `finish`."""
        self._waiting, self._before, self._all_together = {}, {}, micro_batches > 1

    def sink(self, weight: str | None, bias: str | None) -> Callable[[Tensor | None, Tensor | None], None]:
        """What a layer's backward calls with its gradients; a key of None does not learn."""

        def take(grad_weight: Tensor | None, grad_bias: Tensor | None) -> None:
            for key, grad in ((weight, grad_weight), (bias, grad_bias)):
                if key is not None and grad is not None:
                    self.take(key, grad)

        return take

    def take(self, key: str, grad: Tensor) -> None:
        """One gradient, of any shape with the value's size. Raises TrainingDiverged where it is not finite."""
        if grad.shape != self.values[key].shape:
            grad = grad.reshape(self.values[key].shape)
        if self._all_together or key in self._together:
            if key in self._waiting:
                self._waiting[key].add_(grad)
            else:
                self._waiting[key] = grad.clone() if grad._is_view() else grad
            return
        self._finite(key, grad)
        self._move(key, grad)

    def finish(self) -> None:
        """The step is over: what was added up is applied, after all of it was found finite."""
        for key, grad in self._waiting.items():
            self._finite(key, grad)
        for key in list(self._waiting):
            self._move(key, self._waiting.pop(key))
        self._before = {}

    def roll_back(self) -> None:
        """Every value as it was when the step began."""
        with torch.no_grad():
            for key, (value, velocity) in self._before.items():
                self.values[key].copy_(value)
                if velocity is not None:
                    self.velocities[key].copy_(velocity)
        self._waiting, self._before = {}, {}

    def _move(self, key: str, grad: Tensor) -> None:
        value, velocity, scale = self.values[key], self.velocities.get(key), self.scales.get(key)
        if self._undo:
            self._before[key] = value.clone(), None if velocity is None else velocity.clone()
        if velocity is not None:
            velocity.mul_(self.momentum)
            grad, scale = (velocity.add_(grad) if scale is None else velocity.addcmul_(grad, scale)), None
        if scale is None:
            value.add_(grad, alpha=-self.learning_rate)
        else:
            value.addcmul_(grad, scale, value=-self.learning_rate)

    def _finite(self, key: str, grad: Tensor) -> None:
        if not math.isfinite(float(grad.sum())):  # any NaN or infinity is in the sum
            raise TrainingDiverged(f"the gradient of {key} is not finite, so the step was undone; lower the learning rate ({self.learning_rate:g})")
