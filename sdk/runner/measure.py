"""Times of whole inferences, and the memory of a process that did nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from .errors import BadRequest, EngineRefused, RunnerError

MOST_REPEATS = 1_000_000


def bench(engine: Any, arrays: list[Any], warmup: int, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` inferences after `warmup` unmeasured ones."""
    if not 0 <= warmup <= MOST_REPEATS or not 1 <= repeats <= MOST_REPEATS:
        raise BadRequest(f"{warmup} warm-up runs and {repeats} repeats were asked for; give 0 or more and 1 to {MOST_REPEATS:,}")
    for _ in range(warmup):
        engine.run(arrays)
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        engine.run(arrays)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median, fastest, 90th percentile and mean of times in ms."""
    ordered = sorted(times)
    count = len(ordered)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return {"median_ms": median, "min_ms": ordered[0], "p90_ms": ordered[min(int(0.9 * count), count - 1)], "mean_ms": sum(ordered) / count}


def fresh(program: Sequence[str], folder: str, engine: str, warmup: int, repeats: int, timeout_s: float = 3600) -> dict[str, Any]:
    """`bench FOLDER --json` in a process of its own: only there is the peak of its memory the engine's and nobody else's.

    program: how this runner is started, e.g. [python, "embarq-run.pyz"].
    """
    command = [*program, "bench", folder, "--engine", engine, "--warmup", str(warmup), "--repeats", str(repeats), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired as error:
        raise EngineRefused(f"measuring took longer than {timeout_s:.0f} s; give fewer repeats") from error
    except (ValueError, IndexError) as error:
        raise _failed(done) from error


def _failed(done: subprocess.CompletedProcess[str]) -> RunnerError:
    if done.returncode < 0:
        return EngineRefused(f"the measuring process was killed by signal {-done.returncode}; is the memory short (dmesg | grep -i oom)?")
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return EngineRefused(f"the measuring process failed: {said[-1]}; run the same command by hand to see more")


def program() -> list[str]:
    """How to start this runner again: the zipapp it came in, or the package."""
    import os

    started = sys.modules["__main__"].__spec__
    if started is not None and started.name == "__main__" and os.path.isfile(sys.argv[0]):
        return [sys.executable, os.path.abspath(sys.argv[0])]
    return [sys.executable, "-m", __package__ or "sdk.runner"]
