"""Sample pictures that ship with a supernet, made from its weights alone: no picture of anybody's data set is in them.

    python -m benchmarks.dream_pictures [--count 128] [--steps 300]

Noise is changed until the supernet's largest subnet sees a given class in it with the batch-norm statistics that real pictures have
(arXiv 1912.08795). They serve `embarq fit` where the user has no pictures yet: for the ranges of int8 and a subnet's batch-norm
statistics. One thread, about a second a step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train_supernet import PLACES
from sdk.prepare.moofa.space import largest


def dream(net: Any, count: int, steps: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [count, side, side, 3], classes int64 [count]) as `net`, in evaluation mode with statistics of its own, likes them."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % net.classes
    x = (0.5 + 0.25 * torch.randn(count, 3, side, side, generator=generator)).clamp_(0, 1).requires_grad_()
    gaps: list[Any] = []
    hooks = [m.register_forward_hook(lambda m, args, _: gaps.append(_gap(m, args[0]))) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    optimiser = torch.optim.Adam([x], lr=0.05, betas=(0.5, 0.9))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / steps))
        gaps.clear()
        down, right = (int(v) for v in torch.randint(-2, 3, (2,), generator=generator))
        moved = torch.roll(x, (down, right), (2, 3))
        seen = F.cross_entropy(net(moved), classes)
        rough = (x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean()
        loss = seen + sum(gaps) / len(gaps) * 5 + 0.5 * rough
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        x.data.clamp_(0, 1)
        if step % 25 == 0 or step == steps - 1:
            sys.stderr.write(f"step {step + 1}/{steps}: class {seen.item():.3f}, statistics {float(sum(gaps)) / len(gaps):.4f}, roughness {rough.item():.3f}\n")
    for hook in hooks:
        hook.remove()
    return (x.detach().permute(0, 2, 3, 1) * 255).round().byte().numpy(), classes.numpy()


def _gap(norm: Any, x: Any) -> Any:
    """How far a batch's statistics at a batch norm lie from its own, in units of its spread."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    spread = norm.running_var.clamp_min(1e-5)
    return ((mean - norm.running_mean) ** 2 / spread).mean() + ((var / spread).clamp_min(1e-5).sqrt() - 1).square().mean()


def main() -> None:
    """Make the pictures beside the shipped supernet."""
    import torch

    from benchmarks.train_supernet import split
    from sdk.prepare.moofa.nn import store
    from sdk.prepare.moofa.nn.data import batches
    from sdk.prepare.moofa.nn.norm import PICTURES, reestimate

    parser = argparse.ArgumentParser(prog="python -m benchmarks.dream_pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the CIFAR-10 pack: its statistics are what the pictures are to have")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = PLACES["small-moofa"]
    supernet, _ = store.load(place)
    top = largest(supernet.ladder)
    net = reestimate(supernet.extract(top), batches(split(args.data)[0], top.resolution, count=PICTURES)).requires_grad_(False)
    x, y = dream(net, args.count, args.steps, top.resolution)
    np.savez_compressed(place.with_name(f"{place.name}_samples.npz"), x=x, y=y)


if __name__ == "__main__":
    main()
