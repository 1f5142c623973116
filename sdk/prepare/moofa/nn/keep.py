"""A training's checkpoint: weights, momenta, the finished net that others learn from, where the run stands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sdk.prepare.moofa.nn.cluster import World
from sdk.prepare.moofa.nn.recipe import Recipe


class Kept:
    """Reads and writes one run's checkpoint; does nothing where no file was named. Only the first of several processes writes."""

    def __init__(self, path: str | Path | None, net: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, world: World) -> None:
        self.path, self.net, self.optimiser, self.world = None if path is None else Path(path), net, optimiser, world
        shapes = [(name, list(value.shape)) for name, value in net.state_dict().items()]
        self.identity = hashlib.sha256(repr((shapes, asdict(recipe))).encode()).hexdigest()
        self.teacher: nn.Module | None = None
        self.losses: tuple[float, ...] = ()

    def restore(self, make_teacher: Callable[[], nn.Module]) -> tuple[int, int]:
        """(phase, step) to go on from; (0, 0) where there is no checkpoint. Raises UsageError for another run's, or a damaged one."""
        from sdk.training.nn.checkpoint import load_checkpoint

        if self.path is None or not self.path.exists():
            return 0, 0
        arrays, meta = load_checkpoint(self.path, self.identity)
        _fill(self.net, arrays, "net.")
        parameters = dict(self.net.named_parameters())
        for name in parameters:
            if (key := f"momentum.{name}") in arrays:
                self.optimiser.state[parameters[name]]["momentum_buffer"] = torch.from_numpy(arrays[key]).to(parameters[name].device)
        if meta["teacher"]:
            self.teacher = make_teacher()
            _fill(self.teacher, arrays, "teacher.")
        self.losses = tuple(meta["losses"])
        return meta["phase"], meta["step"]

    def save(self, phase: int, step: int, losses: Sequence[float], teacher: nn.Module | None) -> None:
        """Write where the run stands, all or nothing. Raises UsageError when the disk is full; the file before stays."""
        from sdk.training.nn.checkpoint import save_checkpoint

        if self.path is None or self.world.rank:
            return
        arrays = _arrays(self.net, "net.")
        for name, parameter in self.net.named_parameters():
            if (momentum := self.optimiser.state.get(parameter, {}).get("momentum_buffer")) is not None:
                arrays[f"momentum.{name}"] = momentum.detach().cpu().numpy()
        if teacher is not None:
            arrays |= _arrays(teacher, "teacher.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.path, arrays, {"phase": phase, "step": step, "losses": list(losses), "teacher": teacher is not None}, self.identity)


def _arrays(net: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    return {prefix + name: value.detach().cpu().contiguous().numpy() for name, value in net.state_dict().items()}


def _fill(net: nn.Module, arrays: dict[str, np.ndarray], prefix: str) -> None:
    net.load_state_dict({name: torch.from_numpy(arrays[prefix + name]) for name in net.state_dict()})
