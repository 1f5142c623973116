"""A trained supernet on disk: `<name>.npz`, its weights as float16, and `<name>.json`, what it is and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdk.errors import ModelError
from sdk.prepare.moofa.nn.elastic import Supernet
from sdk.prepare.moofa.space import ladder_from

#: Counters that no inference reads.
_UNUSED = "num_batches_tracked"


def save(net: Supernet, path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write `path`.npz and `path`.json. facts: what a reader should know: classes, data, recipe, accuracies; the ladder is added.

    Weights lose their last bits (float16, half the bytes), so judge what `load` gives.
    """
    values = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items() if not name.endswith(_UNUSED)}
    too_large = [name for name, value in values.items() if np.abs(value).max(initial=0) > np.finfo(np.float16).max]
    if too_large:
        raise ModelError(f"{too_large[0]} holds values that float16 has not, so the supernet was not written; train it with a smaller rate")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix(".npz"), **{name: value.astype(np.float16) for name, value in values.items()})  # type: ignore[arg-type]
    record = {"ladder": asdict(net.ladder), "classes": net.classes, **facts}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path) -> tuple[Supernet, dict[str, Any]]:
    """(the supernet in evaluation mode, its facts). Raises ModelError where the files are missing or do not belong together."""
    path = Path(path)
    try:
        facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
            state = {name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files}
        net = Supernet(ladder_from(facts["ladder"]), facts["classes"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"supernet {path} cannot be read: {error}; name one that was saved with sdk.moofa.save") from error
    own = net.state_dict()
    wrong = [name for name in own if not name.endswith(_UNUSED) and (name not in state or state[name].shape != own[name].shape)]
    if wrong or set(state) - set(own):
        raise ModelError(f"supernet {path}: its weights do not fit its ladder ({(wrong or sorted(set(state) - set(own)))[0]}); save it again")
    net.load_state_dict({**own, **state})
    return net.eval(), facts
