"""One training run on a device: the samples that were sent, the options that were asked for, every update told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdk.runner import health


def train(
    trainer: Any, parts: Mapping[str, np.ndarray], options: Mapping[str, Any], checkpoint: Path, tell: Callable[[dict[str, Any]], None],
    stopping: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """Train on parts x and y, judged by held_x and held_y; what `sdk.train_result.TrainResult` is made of, without the seconds.

    options: "epochs", "learning_rate" (None: the trainer's), "decay", "patience", "resume", "seed". tell: called with every update as plain values.
    """
    from sdk.training.nn.data import Batches

    if options.get("learning_rate"):
        trainer.updates.learning_rate = float(options["learning_rate"])
    if not options.get("resume"):
        checkpoint.unlink(missing_ok=True)
    batches = Batches(parts["x"], parts["y"], trainer.training.batch, int(options.get("seed", 0)))
    epochs = int(options.get("epochs", 1))

    def on_step(report: Any) -> None:
        memory = health.memory()["rss_bytes"]
        tell({"step": report.step, "epoch": report.epoch + 1, "loss": report.loss, "accuracy": report.accuracy, "held_out": report.held_out,
              "memory_bytes": memory, "of": epochs * len(batches)})  # fmt: skip

    held = (parts["held_x"], parts["held_y"]) if len(parts["held_y"]) else None
    found = trainer.fit(batches, epochs, evaluate=held, on_step=on_step, early_stop=int(options.get("patience", 0)), checkpoint=checkpoint,
                        resume=bool(options.get("resume")), stop=stopping, decay=bool(options.get("decay")))  # fmt: skip
    return {
        "steps": found.steps, "losses": list(found.losses), "accuracy_before": found.accuracy_before, "accuracy": found.accuracy,
        "held_out": len(parts["held_y"]), "ended": found.ended,
    }  # fmt: skip
