"""The device's half of training: a training artifact behind JSON-RPC on stdin and stdout.

`python3 embarq-train.pyz FOLDER` is started by the host over SSH, or as a child of this computer. Training runs in a thread of its own,
so that `poll` answers while it does. It ends with its input: a broken link leaves the last checkpoint, from which `start` can resume.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import EmbarqError
from sdk.runner import health, rpc
from sdk.runner.arrays import pack, unpack
from sdk.runner.errors import BadRequest, RunnerError
from sdk.runner.serve import protocol_streams

PARTS = ("x", "y", "held_x", "held_y")
CHECKPOINT = "training.ckpt"
#: Samples judged at once.
EVALUATE_ROWS = 64


class _Failed(RunnerError):
    """An error of the library on its way to the host, with the exit code it has there."""

    def __init__(self, error: EmbarqError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code


def told(method: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The method with the library's errors as the protocol carries them."""

    def call(params: dict[str, Any]) -> Any:
        try:
            return method(params)
        except EmbarqError as error:
            raise _Failed(error) from error

    return call


class TrainingServer:
    """A trainer, the samples that were sent, and the run that is going on."""

    def __init__(self, checkpoint: Path, trainer: Any, name: str) -> None:
        self.checkpoint, self.trainer, self.name = checkpoint, trainer, name
        self.parts: dict[str, np.ndarray] = {}
        self._aside = tempfile.TemporaryDirectory(prefix="embarq-train-")
        self.run: Run | None = None
        self._weights: dict[str, Any] = {}
        self.finished = False

    def info(self, _: dict[str, Any]) -> dict[str, Any]:
        """What learns here, and with what."""
        import torch

        program, training = self.trainer.program, self.trainer.training
        return {
            "name": self.name, "input_shape": list(program.input_shape), "input_dtype": str(program.input_dtype).rpartition(".")[2], "classes": program.classes,
            "layers": [{"name": c.layer, "method": c.method, "eps": c.eps} for c in self.trainer.choices], "batch": training.batch,
            "learning_rate": training.learning_rate, "decisions": list(self.trainer.decisions), "threads": self.trainer.threads,
            "torch": str(torch.__version__), "pid": os.getpid(), "checkpoint": self.checkpoint.is_file(), **health.memory(),
        }  # fmt: skip

    def put(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"part", "first", "rows", "array"}: rows of x, y, held_x or held_y. They lie in a file, so that they are not the process's memory."""
        part, first, rows = params.get("part"), params.get("first"), params.get("rows")
        if part not in PARTS or not isinstance(first, int) or not isinstance(rows, int):
            raise BadRequest(f"put needs a part of {', '.join(PARTS)}, the first row and how many rows there are in all")
        array = unpack(params["array"])
        if self.run is not None and self.run.running:
            raise BadRequest("samples cannot be changed while training runs; stop it first")
        if first == 0:
            shape = (rows, *array.shape[1:])
            path = Path(self._aside.name) / f"{part}.npy"
            self.parts.pop(part, None)
            self.parts[part] = np.lib.format.open_memmap(path, "w+", array.dtype, shape) if rows else np.zeros(shape, array.dtype)
        kept = self.parts.get(part)
        if kept is None or first + len(array) > len(kept) or array.shape[1:] != kept.shape[1:]:
            raise BadRequest(f"rows {first} to {first + len(array)} of {part} do not follow what was sent before; send it anew from row 0")
        kept[first : first + len(array)] = array
        return {"rows": first + len(array)}

    def start(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"epochs", "learning_rate", "decay", "patience", "resume", "seed"}: begin, in a thread."""
        if any(part not in self.parts for part in PARTS):
            raise BadRequest("no samples were sent; put x, y, held_x and held_y first")
        if self.run is not None and self.run.running:
            raise BadRequest("training runs already; stop it first")
        self.run = Run(self.trainer, self.parts, params, self.checkpoint)
        self.run.thread.start()
        return {}

    def poll(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"wait_s"}: the updates since the last poll, at least one where one comes in time, and whether it still runs."""
        run = self._run()
        events = run.take(float(params.get("wait_s", 0.5)))
        if not run.running and run.error is not None:
            raise _Failed(run.error) if isinstance(run.error, EmbarqError) else run.error
        return {"events": events, "running": run.running or not run.events.empty()}

    def stop(self, _: dict[str, Any]) -> dict[str, Any]:
        """End training after the update that is running."""
        run = self._run()
        run.stopping.set()
        run.thread.join()
        return {}

    def result(self, _: dict[str, Any]) -> dict[str, Any]:
        """How it went, once it has ended."""
        run = self._run()
        run.thread.join()
        return {**run.result, "memory_bytes": health.memory()["peak_rss_bytes"]}

    def forget(self, _: dict[str, Any]) -> dict[str, Any]:
        """Take the checkpoint away."""
        self.checkpoint.unlink(missing_ok=True)
        return {}

    def weights(self, _: dict[str, Any]) -> dict[str, Any]:
        """The names of the source model's values; `weight` gives each."""
        self._weights = {name: value.detach().numpy() for name, value in self.trainer.state_dict().items()}
        return {"names": list(self._weights)}

    def weight(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"name"}: the value as it was when `weights` was asked."""
        if params.get("name") not in self._weights:
            raise BadRequest(f"there is no weight {params.get('name')!r}; ask for weights first")
        return {"array": pack(np.array(self._weights[params["name"]], order="C"))}

    def shutdown(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer, then end."""
        self.finished = True
        return {}

    def close(self) -> None:
        """Stop what runs and take the samples away."""
        if self.run is not None and self.run.running:
            self.run.stopping.set()
            self.run.thread.join()
        self.parts.clear()
        self._aside.cleanup()

    def methods(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """What the protocol offers, by name."""
        offered = (self.info, self.put, self.start, self.poll, self.stop, self.result, self.forget, self.weights, self.weight, self.shutdown)
        return {method.__name__: told(method) for method in offered} | {"health": lambda _: health.health()}

    def _run(self) -> Run:
        if self.run is None:
            raise BadRequest("training was not started; send samples, then start")
        return self.run


class Run:
    """One training run in a thread. `events` are told of once each; `result` stands when it has ended, `error` when it failed."""

    def __init__(self, trainer: Any, parts: dict[str, np.ndarray], options: dict[str, Any], checkpoint: Path) -> None:
        self.trainer, self.parts, self.options, self.checkpoint = trainer, parts, options, checkpoint
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopping = threading.Event()
        self.error: Exception | None = None
        self.result: dict[str, Any] = {}
        self.thread = threading.Thread(target=self._guarded, daemon=True)

    @property
    def running(self) -> bool:
        """True until the thread has ended."""
        return self.thread.is_alive()

    def take(self, wait_s: float) -> list[dict[str, Any]]:
        """All events that wait; when there are none, the next one within `wait_s`."""
        found = []
        try:
            found.append(self.events.get(timeout=wait_s))
            while True:
                found.append(self.events.get_nowait())
        except queue.Empty:
            return found

    def _guarded(self) -> None:
        try:
            self._train()
        except Exception as error:  # told at the next poll
            self.error = error

    def _train(self) -> None:
        from sdk.training.run import train

        self.result = train(self.trainer, self.parts, self.options, self.checkpoint, self.events.put, self.stopping.is_set)


def main(argv: list[str] | None = None) -> int:
    """`embarq-train FOLDER [CHECKPOINT]`: serve until shutdown or the end of stdin. The checkpoint lies in the folder unless named.
    Exit codes as the runner's."""
    from sdk.training.settings import open_trainer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal reaches every process on it: the host says what to do
    arguments = list(sys.argv[1:] if argv is None else argv)
    source, sink = protocol_streams()
    try:
        trainer, name = open_trainer(Path(arguments[0]))
    except (EmbarqError, RunnerError) as error:
        sys.stderr.write(f"embarq-run: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        sys.stderr.write(f"embarq-run: training needs {error.name}, not installed for {sys.executable}; there: {sys.executable} -m pip install {error.name}\n")
        return 6
    checkpoint = Path(arguments[1]) if len(arguments) > 1 else Path(arguments[0]) / CHECKPOINT
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    server = TrainingServer(checkpoint, trainer, name)
    try:
        rpc.serve(source, sink, server.methods(), lambda: server.finished)
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
