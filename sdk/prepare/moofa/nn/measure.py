"""The accuracy of one subnet, as a job for other processes: taken out of the supernet, given statistics of its own, judged."""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdk.errors import DataError
from sdk.prepare.moofa.jobs import Job, content_key
from sdk.prepare.moofa.nn.data import batches, pictures
from sdk.prepare.moofa.nn.elastic import Supernet
from sdk.prepare.moofa.nn.norm import PICTURES, reestimate
from sdk.prepare.moofa.nn.plain import SubnetModule
from sdk.prepare.moofa.space import Subnet, from_json

#: Part of every result's key: counted up when the same subnet and pictures would come to another accuracy.
VERSION = 2
#: Pictures judged at once.
BATCH = 250


@dataclass(frozen=True)
class Bench:
    """What all measurements of a supernet share. threads: of torch, in a process that measures; 0: as they are."""

    supernet: Supernet = field(repr=False)
    statistics: np.ndarray = field(repr=False)  #: uint8 [m, H, W, 3]: pictures that batch-norm statistics come from
    x: np.ndarray = field(repr=False)  #: uint8 [n, H, W, 3]: pictures that judge
    y: np.ndarray = field(repr=False)  #: integers [n]
    threads: int = 0

    def __post_init__(self) -> None:
        pictures(self.statistics)
        pictures(self.x, self.y)
        if self.y.max() >= self.supernet.classes:
            raise DataError(f"a label is {self.y.max()} and the supernet knows {self.supernet.classes} classes, 0 to {self.supernet.classes - 1}")

    def jobs(self, subnets: list[Subnet]) -> list[Job]:
        """A job for each, named by everything that its accuracy depends on."""
        basis = self._content()
        return [Job(content_key(basis, repr(net.key(self.supernet.ladder))), net.to_json()) for net in subnets]

    def module(self, subnet: Subnet) -> SubnetModule:
        """The subnet as an ordinary module, with statistics of its own."""
        made = self.supernet.extract(subnet)
        reestimate(made, batches(self.statistics, subnet.resolution, count=PICTURES))
        return made

    def _content(self) -> str:
        """A hash of weights, ladder and pictures; statistics of the supernet's batch norms are not in it, as no subnet uses them."""
        found = hashlib.sha256(repr((VERSION, self.supernet.ladder, self.supernet.classes)).encode())
        for name, value in self.supernet.state_dict().items():
            if "running_" not in name and not name.endswith("num_batches_tracked"):
                found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        for array in (self.statistics, self.x, self.y.astype(np.int64)):
            found.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def measure(bench: Bench, subnet: dict[str, Any]) -> dict[str, Any]:
    """{"accuracy": share of right answers, "seconds"} of a subnet in JSON's form, for `jobs.run`."""
    begin = time.monotonic()
    if bench.threads:
        torch.set_num_threads(bench.threads)
    net = from_json(bench.supernet.ladder, subnet)
    module = folded(bench.module(net))
    with torch.inference_mode():
        answers = np.concatenate([module(batch).argmax(1).numpy() for batch in batches(bench.x, net.resolution, BATCH)])
    return {"accuracy": float((answers == bench.y).mean()), "seconds": time.monotonic() - begin}


def folded(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that gives the same answers in three quarters of the time: no batch norm behind a convolution, activations in place."""
    quick: nn.Module = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in quick.modules():
        if isinstance(part, nn.ReLU | nn.Hardswish):
            part.inplace = True
        for (name, layer), (behind, norm) in pairwise(list(part.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(layer, norm))
                setattr(part, behind, nn.Identity())
    return quick
