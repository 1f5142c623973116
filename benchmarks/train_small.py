"""Train the small nets of `benchmarks/small_nets.py` on CIFAR-10 and keep their weights as float16.

    python -m benchmarks.train_small mobilenetv2_035 mcunet_like resnet18_quarter --data FOLDER

FOLDER holds `cifar10_jpeg_train.npz` and `cifar10_jpeg_test.npz`: `jpeg` (all bytes), `offsets` [n+1], `y` [n].
One thread, seed 0, about 1.5, 2 and 3 minutes an epoch on one x86-64 core; a checkpoint after every epoch in
`.cache/train_small`, from which a second run goes on. The test images only tell the accuracy at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small_nets

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "train_small"
EPOCHS = {"mobilenetv2_035": 11, "mcunet_like": 9, "resnet18_quarter": 7}
BATCH, PEAK_RATE, MOMENTUM, DECAY, SEED = 128, 0.2, 0.9, 5e-4, 0


def images(path: Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures of a JPEG pack, evenly over all of it, or all: uint8 [n, 32, 32, 3] and labels int64 [n]."""
    from PIL import Image

    with np.load(path, allow_pickle=False) as pack:
        jpeg, offsets, labels = pack["jpeg"].tobytes(), pack["offsets"], pack["y"]
    n = len(labels) if count is None else min(count, len(labels))
    rows = np.linspace(0, len(labels) - 1, n).round().astype(int)
    x = np.stack([np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]])).convert("RGB")) for i in rows])
    return x, labels[rows].astype(np.int64)


def augment(x: Any, generator: Any) -> Any:
    """Random mirror of each image and one random shift by up to 3 pixels of the whole batch; x [N, 3, 32, 32]."""
    import torch

    flip = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    x = torch.where(flip, x.flip(3), x)
    top, left = (int(v) for v in torch.randint(0, 7, (2,), generator=generator))
    return torch.nn.functional.pad(x, (3, 3, 3, 3))[:, :, top : top + 32, left : left + 32]


def rate(step: int, steps: int) -> float:
    """One cycle: linear up over the first fifth, then a cosine down to zero."""
    warm = 0.2 * steps
    return PEAK_RATE * (step / warm if step < warm else 0.5 * (1 + float(np.cos(np.pi * (step - warm) / (steps - warm)))))


def train(name: str, x: np.ndarray, y: np.ndarray, checkpoint: Path) -> Any:
    """The trained net; x uint8 [n, 32, 32, 3], y int64 [n]. Goes on from `checkpoint` where there is one."""
    import torch

    torch.manual_seed(SEED)
    net = small_nets.module(name).to(memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    for epoch in range(first, EPOCHS[name]):
        started = time.perf_counter()
        loss = _epoch(net, optimiser, x, y, epoch, EPOCHS[name])
        torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1}, checkpoint)
        print(f"{name} epoch {epoch + 1}/{EPOCHS[name]} loss {loss:.3f} {time.perf_counter() - started:.0f} s", flush=True)
    return net.eval()


def _epoch(net: Any, optimiser: Any, x: np.ndarray, y: np.ndarray, epoch: int, epochs: int) -> float:
    import torch

    generator = torch.Generator().manual_seed(SEED + 1000 * (epoch + 1))
    order = torch.randperm(len(x), generator=generator).numpy()
    per_epoch = len(x) // BATCH
    total = 0.0
    net.train()
    for i in range(per_epoch):
        for group in optimiser.param_groups:
            group["lr"] = rate(epoch * per_epoch + i, epochs * per_epoch)
        rows = order[i * BATCH : (i + 1) * BATCH]
        batch = augment(to_input(x[rows]), generator).contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(net(batch), torch.from_numpy(y[rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total / per_epoch


def to_input(x: np.ndarray) -> Any:
    """uint8 [N, 32, 32, 3] -> float32 tensor [N, 3, 32, 32] in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float() / 255


def accuracy(net: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers of a net in evaluation mode."""
    import torch

    with torch.no_grad():
        right = [int((net(to_input(x[i : i + 250])).argmax(1).numpy() == y[i : i + 250]).sum()) for i in range(0, len(x), 250)]
    return sum(right) / len(x)


def main() -> None:
    """Train, save the weights, and print the accuracy of what was saved."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=sorted(small_nets.NETS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the two CIFAR-10 packs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.nice(10)
    CACHE.mkdir(parents=True, exist_ok=True)
    x, y = images(options.data / "cifar10_jpeg_train.npz")
    tx, ty = images(options.data / "cifar10_jpeg_test.npz")
    for name in options.names:
        net = train(name, x, y, CACHE / f"{name}.pt")
        small_nets.save_weights(net, small_nets.WEIGHTS / f"{name}.npz")
        stored = accuracy(small_nets.pretrained(name), tx, ty)
        settings: dict[str, Any] = {"epochs": EPOCHS[name], "batch": BATCH, "peak_rate": PEAK_RATE, "momentum": MOMENTUM, "decay": DECAY, "seed": SEED}
        settings |= {"net": name, "data": "CIFAR-10, JPEG pack, 50,000 images", "test_images": len(ty), "accuracy": stored}
        (small_nets.WEIGHTS / f"{name}.json").write_text(json.dumps(settings, indent=1) + "\n")
        print(f"{name}: {stored:.4f} on {len(ty)} test images (before rounding to float16: {accuracy(net, tx, ty):.4f})", flush=True)


if __name__ == "__main__":
    main()
