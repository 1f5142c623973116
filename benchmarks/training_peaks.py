"""The peak of a training step: by how much the resident set of a fresh process grows beyond the model itself.

One process of its own reads the net and the calibration, gives its free heap back, and forks once for every measurement, so that each
starts from the same memory. Counted is all that a way of training adds: gradients or bases, copies of weights that move, what is kept,
what is alive in between, workspaces of the libraries. Each takes two steps: the second finds the heap as the first left it. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def peaks(net: str, layers: str, calibration: str, wanted: Sequence[tuple[str, int]]) -> dict[str, int]:
    """ "method:micro" -> bytes of growth for every (method, micro-batch) wanted; method "plain" is plain autograd, micro 0 the whole batch.

    Raises RuntimeError where the measuring process fails, with its last words.
    """
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.training_peaks", net, layers, calibration, json.dumps(list(wanted))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the peaks of {net} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return {str(key): int(value) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}


def forked_growth(make: Callable[[], Callable[[], Any]]) -> int:
    """Bytes by which a fork of this process grows at its highest while it makes something ready and runs it twice."""
    from sdk.training.nn.meter import forget_peak, resident_peak

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = forget_peak()
            run = make()
            run()
            run()
            os.write(write, str(resident_peak() - before).encode())
            os._exit(0)
        except BaseException as error:  # a fork must not go on as if it were the parent
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a measured step failed")
    return int(said)


def main() -> None:
    """In the measuring process: net, layers, calibration file, wanted; the answer is one line of JSON."""
    import gc

    import torch

    from benchmarks import training_measure, training_nets, training_peers
    from benchmarks.training_methods import Learning, trainer
    from sdk.training.nn import meter
    from sdk.training.nn.calibrate import Calibration
    from sdk.training.nn.program import read_program

    name, layers, calibration, wanted = sys.argv[1:]
    torch.set_num_threads(1)
    net = training_nets.build(name)
    names = training_peers.last(net, layers)
    x, y = (torch.from_numpy(a) for a in training_nets.pictures(name, training_measure.BATCH))
    known = Learning(read_program(net, x[:2]), Calibration.load(calibration), tuple(names))
    training_nets.training_pictures.cache_clear()

    def make(method: str, micro: int) -> Callable[[], Any]:
        if method == "plain":
            run = training_peers.plain(net, names, copied=False)
            return lambda: training_peers.step(run, x, y, training_measure.TINY_RATE, micro)
        one = trainer(known, method, training_measure.training_of(micro))
        return lambda: one.step(x, y)

    gc.collect()
    meter._trim()
    print(json.dumps({f"{method}:{micro}": forked_growth(lambda m=method, n=micro: make(m, n)) for method, micro in json.loads(wanted)}))


if __name__ == "__main__":
    main()
