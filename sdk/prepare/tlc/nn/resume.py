"""A collapse on disk: where it stands after every epoch, written aside and renamed, so that a kill at any moment loses one epoch at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from sdk.prepare.tlc.nn.network import Network
from sdk.prepare.tlc.nn.samples import Samples
from sdk.prepare.tlc.nn.score import Removal
from sdk.prepare.tlc.nn.tune import Tuning
from sdk.prepare.tlc.records import Budget, Round, Settings, round_of


@dataclass(frozen=True)
class Standing:
    """Where a collapse stands. `now`: the network in work; `best`: the last that was within the drop; `tuning`: None between rounds, else
    where the training of the round `pending` (its number, what it removed, what that was expected to cost, accuracy before) stands."""

    now: Network
    best: Network
    rounds: tuple[Round, ...] = ()
    pending: Mapping[str, Any] | None = None
    tuning: Tuning = field(default_factory=Tuning)
    ended: str = ""


def fingerprint(module: fx.GraphModule, samples: Samples, settings: Settings, budget: Budget | None, max_drop: float | None, device: str) -> str:
    """Of everything that must be the same for a run to go on: weights, data, settings, budget, device."""
    digest = hashlib.sha256(json.dumps([asdict(settings), None if budget is None else asdict(budget), max_drop, device]).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for part in (samples.x, samples.y, samples.held_x, samples.held_y):
        digest.update(str((tuple(part.shape), part.dtype)).encode())
        digest.update(part[:: max(1, len(part) // 64)].contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(path: Path, standing: Standing, model_id: str) -> None:
    """Write it, all or nothing. Raises UsageError where the folder cannot be written; the file of before stays."""
    from sdk.training.nn.checkpoint import save_checkpoint

    arrays: dict[str, np.ndarray] = {f"momenta/{name}": _array(value) for name, value in standing.tuning.momenta.items()}
    for which in ("now", "best"):
        network: Network = getattr(standing, which)
        arrays |= {f"{which}/values/{name}": _array(value) for name, value in network.values.items()}
        for removal in network.removals:
            arrays |= {f"{which}/scale/{removal.site}": removal.scale, f"{which}/shift/{removal.site}": removal.shift}
    meta = {
        "now": _plain(standing.now), "best": _plain(standing.best), "rounds": [r.to_dict() for r in standing.rounds], "ended": standing.ended,
        "pending": None if standing.pending is None else dict(standing.pending), "epoch": standing.tuning.epoch,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, arrays, meta, model_id)


def load(path: Path, model_id: str) -> Standing:
    """What `save` wrote. Raises UsageError for a damaged file and for one of another model, other data or other settings."""
    from sdk.training.nn.checkpoint import load_checkpoint

    arrays, meta = load_checkpoint(path, model_id)
    momenta = {name.removeprefix("momenta/"): torch.from_numpy(a) for name, a in arrays.items() if name.startswith("momenta/")}
    return Standing(
        _network(arrays, meta["now"], "now"), _network(arrays, meta["best"], "best"), tuple(round_of(r) for r in meta["rounds"]), meta["pending"],
        Tuning(meta["epoch"], momenta), meta["ended"],
    )  # fmt: skip


def _plain(network: Network) -> dict[str, Any]:
    return {"removed": [[removal.site, removal.width] for removal in network.removals], "merges": list(network.merges)}


def _network(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any], which: str) -> Network:
    removals = tuple(Removal(site, arrays[f"{which}/scale/{site}"], arrays[f"{which}/shift/{site}"], width) for site, width in plain["removed"])
    prefix = f"{which}/values/"
    values = {name.removeprefix(prefix): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}
    return Network(removals, tuple(plain["merges"]), values)


def _array(value: Tensor) -> np.ndarray:
    found: np.ndarray = value.detach().cpu().contiguous().numpy()
    return found
