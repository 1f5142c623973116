"""How an artifact's training goes, as JSON, and the trainer that it makes on the device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.heap import keep_tight

#: Files of the payload.
PROGRAM, SETTINGS, CALIBRATION = "program.pt2", "training.json", "calibration.npz"


def settings(choices: Sequence[Choice], training: Training, threads: int) -> dict[str, Any]:
    """How training goes, as plain values."""
    return {"training": asdict(training), "choices": [asdict(choice) for choice in choices], "threads": threads}


def read_settings(content: bytes) -> tuple[tuple[Choice, ...], Training, int]:
    """(choices, training, threads) of what `settings` gave. Raises UsageError where it is damaged."""
    try:
        found = json.loads(content)
        known = {f.name for f in fields(Choice)}
        choices = tuple(Choice(**_kept(row, known)) for row in found["choices"])
        training = _kept(found["training"], {f.name for f in fields(Training)})
        return choices, Training(**training), int(found["threads"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{SETTINGS} of the artifact is damaged ({error}); compile it again") from error


def _kept(row: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """What is known of a record, its lists as the tuples they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key in known}


def open_trainer(folder: Path) -> tuple[Any, str]:
    """(the trainer, the model's name) of an artifact's folder, every hash checked. Raises what the runner raises for a damaged one."""
    from sdk.runner.bundle import open_bundle

    bundle = open_bundle(str(folder), None)
    if "training" not in bundle.manifest:
        raise UsageError(f"{bundle.manifest['name']} was compiled for inference only; compile it with training to let it learn")
    payload = bundle.entry.parent
    from sdk.training.nn.program import read_program
    from sdk.training.nn.trainer import Trainer

    choices, training, threads = read_settings((payload / SETTINGS).read_bytes())
    if training.budget_bytes:  # a budget was planned for a heap that gives freed tensors back at once
        keep_tight()
    calibration = None
    if (payload / CALIBRATION).is_file():
        from sdk.training.nn.calibrate import Calibration

        calibration = Calibration.load(payload / CALIBRATION)
    return Trainer(read_program(bundle.entry), choices, calibration, training, threads=threads), str(bundle.manifest["name"])
