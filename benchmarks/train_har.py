"""Train the net of `benchmarks/har.py` on the people who are not held out, and keep its weights as float16.

    python -m benchmarks.train_har phone watch --data FOLDER

FOLDER holds `spsw_har_public.npz`. One thread, seed 0; under a minute for each device. The held-out people only tell the
accuracy at the end: what the net can do for somebody it has never seen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import har
from benchmarks.small_nets import WEIGHTS, save_weights

EPOCHS, BATCH, PEAK_RATE, DECAY, SEED = 15, 64, 3e-3, 1e-3, 0


def train(x: np.ndarray, y: np.ndarray, epochs: int = EPOCHS, seed: int = SEED) -> Any:
    """The trained net, in evaluation mode; x [n, 6, 1, 128] float32, y [n]. AdamW, one cycle of the rate."""
    import torch

    torch.manual_seed(seed)
    net = har.module().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=DECAY)
    steps = len(x) // BATCH
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=epochs * steps)
    data, labels, generator = torch.from_numpy(x), torch.from_numpy(y), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for i in range(steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            loss = torch.nn.functional.cross_entropy(net(augment(data[rows], generator)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
    return net.eval()


def augment(x: Any, generator: Any) -> Any:
    """Each window [N, 6, 1, L] a little louder or softer, with some noise: a device sits differently every time."""
    import torch

    gain = 1 + 0.1 * torch.randn(len(x), 6, 1, 1, generator=generator)
    return x * gain + 0.02 * torch.randn(x.shape, generator=generator)


def accuracy(net: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers of a net in evaluation mode."""
    import torch

    with torch.no_grad():
        return float((net(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def main() -> None:
    """Train, save the weights, and print the accuracy of what was saved on people it never saw."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("devices", nargs="+", choices=har.DEVICES)
    parser.add_argument("--data", type=Path, required=True, help="folder with spsw_har_public.npz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for device in options.devices:
        started = time.perf_counter()
        found = har.windows(options.data / "spsw_har_public.npz", device)
        strangers = np.isin(found.subject, har.HELD_OUT)
        known, held = found.of(~strangers), found.of(strangers)
        net = train(known.x, known.y)
        save_weights(net, WEIGHTS / f"har_{device}.npz")
        stored = accuracy(har.pretrained(device), held.x, held.y)
        settings: dict[str, Any] = {"epochs": EPOCHS, "batch": BATCH, "peak_rate": PEAK_RATE, "weight_decay": DECAY, "seed": SEED, "device": device}
        settings |= {"windows": len(known.y), "held_out_people": list(har.HELD_OUT), "held_out_windows": len(held.y), "accuracy": stored}
        (WEIGHTS / f"har_{device}.json").write_text(json.dumps(settings, indent=1) + "\n")
        print(f"har_{device}: {stored:.4f} on people it never saw ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
