"""One contender of the Linux comparison in a process of its own: `python -m benchmarks.linux_peers KIND WHAT THREADS`.

KIND is eager or compile (WHAT: a name of `linux_nets.NETS` or `small_nets.NETS`) or onnx, litert, executorch (WHAT: the engine's file).
Each line on stdin, {"warmup": w, "repeats": n}, is answered by one on stdout, {"ms": [...], "peak_rss_bytes": b}. What the
projects' own documentation shows first is what is run: default options, the number of threads set, nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("eager", "compile", "onnx", "litert", "executorch")


def module_and_example(name: str) -> tuple[Any, np.ndarray]:
    """The net called `name` in evaluation mode and one input of its shape."""
    from benchmarks import linux_nets, small_nets

    if name in small_nets.NETS:
        return small_nets.pretrained(name), np.random.default_rng(0).random(small_nets.INPUT_SHAPE, np.float32)
    net = linux_nets.NETS[name]
    return net.module(), net.samples(1)[0]


def contender(kind: str, what: str, threads: int) -> Callable[[], Any]:
    """A function that runs one inference."""
    if kind in ("eager", "compile"):
        return _torch(kind, what, threads)
    return {"onnx": _onnx, "litert": _litert, "executorch": _executorch}[kind](what, threads)


def _torch(kind: str, name: str, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    net, example = module_and_example(name)
    x = torch.from_numpy(example)
    run = torch.compile(net) if kind == "compile" else net

    def once() -> Any:
        with torch.inference_mode():
            return run(x)

    once()
    return once


def _onnx(path: str, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: drawn(i.shape, i.type) for i in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _litert(path: str, threads: int) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    inputs = [(i["index"], drawn(i["shape"], np.dtype(i["dtype"]).name)) for i in interpreter.get_input_details()]
    outputs = [o["index"] for o in interpreter.get_output_details()]

    def once() -> Any:
        for index, value in inputs:
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return once


def _executorch(path: str, threads: int) -> Callable[[], Any]:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    set_threads = getattr(portable_lib, "_unsafe_reset_threadpool", None)
    if set_threads is not None:
        set_threads(threads)
    method = Runtime.get().load_program(Path(path)).load_method("forward")
    meta = method.metadata
    inputs = []
    for i in range(meta.num_inputs()):
        tensor = meta.input_tensor_meta(i)
        inputs.append(torch.from_numpy(drawn(tensor.sizes(), "int64" if tensor.dtype() == 4 else "float32")))
    return lambda: method.execute(inputs)


def drawn(shape: Any, kind: str) -> np.ndarray:
    """A random input of `shape`; small whole numbers for tokens."""
    rng = np.random.default_rng(0)
    if "int64" in kind or "int32" in kind:
        return rng.integers(0, 100, tuple(shape)).astype("int64" if "int64" in kind else "int32")
    if "int8" in kind:
        return rng.integers(-128, 128, tuple(shape)).astype(np.int8)
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def peak_rss_bytes() -> int:
    """Highest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Load, then obey."""
    kind, what, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not stand between the answers
    once = contender(kind, what, threads)
    for line in sys.stdin:
        wanted = json.loads(line)
        for _ in range(wanted["warmup"]):
            once()
        times = []
        for _ in range(wanted["repeats"]):
            start = time.perf_counter_ns()
            once()
            times.append((time.perf_counter_ns() - start) / 1e6)
        answers.write(json.dumps({"ms": times, "peak_rss_bytes": peak_rss_bytes()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
