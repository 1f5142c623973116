"""Several processes that train one net: what `torchrun` starts. A process that was started alone is a world of one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn


@dataclass(frozen=True)
class World:
    """This process among `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> World:
        """The processes that `torchrun` started, joined over gloo on a CPU and NCCL on GPUs; one where nothing did."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of a batch."""
        return rows[self.rank :: self.size]

    def average(self, net: nn.Module) -> None:
        """Make every gradient the mean over all processes; one that a process lacks counts as zero."""
        if self.size == 1:
            return
        parameters = [p for p in net.parameters() if p.requires_grad]
        whole = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        distributed.all_reduce(whole)
        for p, part in zip(parameters, (whole / self.size).split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def agree(self, stop: bool) -> bool:
        """Whether any process wants to stop: all stop at the same step."""
        if self.size == 1:
            return stop
        votes = torch.tensor([float(stop)], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(votes)
        return bool(votes.item() > 0)
