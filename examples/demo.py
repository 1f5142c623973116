"""The whole way in one go: train a small net, plan it for a board, compile, flash the emulated board, prove it there, report;
then the same net for a Raspberry Pi.

    python examples/demo.py                     # stm32f405
    python examples/demo.py --device nrf52840   # any emulated board of `embarq devices`

The data are scikit-learn's handwritten digits: 1,797 grey pictures of 8x8 pixels, shipped inside that package. One picture
in five is held out; neither training nor calibration sees those. Nothing is downloaded and no hardware is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same sums in the same order on every machine

import numpy as np

import sdk
from sdk.errors import EmbarqError, VerificationFailed

SEED, EPOCHS, BATCH, RATE = 0, 30, 32, 4e-3
CALIBRATION = 200  # training pictures that the ranges are measured on


@dataclass(frozen=True)
class Digits:
    """Pictures float32 [n, 1, 8, 8] in [0, 1] and labels int64 [n]."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def digits() -> Digits:
    """The data, split the same way every time."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    order = np.random.default_rng(SEED).permutation(len(x))
    test, train = order[::5], np.delete(order, np.s_[::5])
    return Digits(x[train], y[train].astype(np.int64), x[test], y[test].astype(np.int64))


def make_net() -> Any:
    """A small convolutional net as microcontrollers run them: a stem, two depthwise-separable blocks, a mean, a classifier."""
    from torch import nn

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip

    stem = [nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*stem, *block(24, 48, 2), *block(48, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(data: Digits) -> Any:
    """The net, trained with Adam under a one-cycle rate, in evaluation mode."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    net = make_net()
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    steps = -(-len(x) // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, EPOCHS * steps)
    for _ in range(EPOCHS):
        for picked in torch.randperm(len(x)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(net(x[picked]), y[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def predict_torch(net: Any, x: np.ndarray) -> np.ndarray:
    """Classes int64 [n] by the float net."""
    import torch

    with torch.no_grad():
        return net(torch.from_numpy(x)).argmax(1).numpy()


def quantised(graph: Any, x: np.ndarray) -> list[np.ndarray]:
    """The pictures as the planned graph takes them: int8, one array [1, ...] each."""
    from sdk.golden import quantise_array

    tensor = graph[graph.inputs[0]]
    return [quantise_array(tensor, row.reshape(tensor.shape)) for row in x]


def outputs_host(graph: Any, samples: list[np.ndarray]) -> np.ndarray:
    """What the quantised graph means, computed here by the interpreter: int8 [n, 10]."""
    from sdk.graph.interpreter import run

    name, out = graph.inputs[0], graph.outputs[0]
    return np.concatenate([run(graph, {name: sample})[out] for sample in samples])


class Screen:
    """Prints what is done while it is done: a heading with its seconds, facts under it."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        self.began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Any]:
        """A heading; `say(text)` inside prints a fact, and on a terminal a spinner turns meanwhile."""
        start = time.monotonic()
        self.console.print(f"[bold cyan]{title}[/]")
        with self.console.status("working") as status:
            yield lambda text, passing=False: status.update(text) if passing else self.console.print(f"   {text}")
        self.console.print(f"   [dim]{time.monotonic() - start:.1f} s[/]")


def demo(device: str, linux: str, folder: Path, screen: Screen) -> None:
    """Everything, in order."""
    with screen.step("1  Train a small net on handwritten digits") as say:
        data = digits()
        say(f"scikit-learn's digits: {len(data.train_x):,} pictures to train on, {len(data.test_x)} held out, 8x8 grey")
        net = train(data)
        float_right = predict_torch(net, data.test_x) == data.test_y
        count = sum(p.numel() for p in net.parameters())
        say(f"{count:,} parameters, {EPOCHS} epochs, one thread: {100 * float_right.mean():.2f} % of the held-out pictures")

    with screen.step(f"2  Plan it for {device}: int8, calibrated on {CALIBRATION} training pictures") as say:
        import torch

        work = sdk.load(net, example=torch.from_numpy(data.test_x[:1]), name="digits")
        plan = sdk.plan(device, work, calibration=data.train_x[:CALIBRATION], precision="int8")
    screen.console.print(str(plan), markup=False, soft_wrap=True)

    with screen.step("3  Compile: C, firmware, golden vectors") as say:
        artifact = sdk.compile(plan, lambda line: say(line, passing=True))
        artifact.save(folder)
        say(f"{folder}/: {len(artifact.manifest['files'])} files, every one with its hash in manifest.json")

    with screen.step(f"4  Flash the emulated {device} and verify every layer there") as say:
        session = sdk.open(folder).flash("emulator")
        say("the board computes the golden vectors to the bit, layer by layer")

    try:
        with screen.step(f"5  Run all {len(data.test_x)} held-out pictures on the board") as say:
            samples = quantised(plan.graph, data.test_x)
            board = np.concatenate(list(session.run_each(samples, lambda done, of: say(f"{done} of {of}", passing=True))))
            host = outputs_host(plan.graph, samples)
            right = {"float32, PyTorch, here": float_right, "int8, interpreter, here": host.argmax(1) == data.test_y}
            right[f"int8, firmware, on the emulated {device}"] = board.argmax(1) == data.test_y
            same = float(np.mean(board == host))
            say(f"{100 * same:.2f} % of the board's {board.size:,} output bytes are the interpreter's")
        profile = session.profile()
    finally:
        session.close()
    report(screen, plan, artifact, profile, right, folder)
    if same < 1.0:
        raise VerificationFailed(f"{100 * (1 - same):.2f} % of the board's output bytes differ from the interpreter's; please report it")
    second_half(linux, work, data, folder.parent / f"{folder.name}-{linux}", screen)
    screen.console.print(f"[dim]{time.monotonic() - screen.began:.0f} s in all. Look further: embarq inspect {folder}    embarq profile {folder}[/]")


def second_half(device: str, work: Any, data: Digits, folder: Path, screen: Screen) -> None:
    """The same model for a Linux device: every engine that is installed builds it, the fastest accurate one is kept and proved here."""
    from rich.text import Text

    with screen.step(f"6  The same model for a {device}: plan, with the engines that are installed here") as say:
        plan = sdk.plan(device, work, calibration=data.train_x[:CALIBRATION], evaluation=(data.test_x, data.test_y), threads=1)
    screen.console.print(str(plan), markup=False, soft_wrap=True)
    with screen.step("7  Compile: build every candidate, judge it on the held-out pictures, time all in turns on this computer") as say:
        artifact = sdk.compile(plan, lambda line: say(line, passing=True))
        artifact.save(folder)
        say(f"{folder}/: {len(artifact.manifest['files'])} files")
    for text in artifact.measured_text():
        screen.console.print(Text(text), soft_wrap=True)
    with screen.step(f"8  Flash it to this computer, as it would be to a {device} over SSH, and prove it") as say, sdk.open(folder).flash("local") as session:
        say(str(session.verify()))
        say(str(session.bench(repeats=200)))


def report(screen: Screen, plan: Any, artifact: Any, profile: Any, right: Any, folder: Path) -> None:
    """The tables at the end. right: what computed it -> bool [n], which held-out pictures it got right."""
    from sdk.commands.common import table

    say, board, cost = screen.console.print, plan.device, artifact.manifest["cost"]
    say("[bold cyan]Report[/]")
    say(str(profile), markup=False, soft_wrap=True)
    cycles = profile.cycles_est
    say(f"One picture: {profile.instructions:,} instructions for {plan.macs:,} multiply-accumulates; by the core's manual about {cycles:,}"
        f" cycles, {1e3 * cycles / board.core.clock_hz:.2f} ms at {board.core.clock_hz / 1e6:g} MHz without wait states.\n")  # fmt: skip
    say(table("Accuracy on the held-out pictures", ("what", "right", "of", "accuracy"), [
        (name, int(ok.sum()), ok.size, f"{100 * ok.mean():.2f} %") for name, ok in right.items()
    ], right=("right", "of", "accuracy")))  # fmt: skip
    ram = sum(region.usable_bytes for region in board.arena_regions())
    used = [("arena: tensors while it runs", cost["arena_bytes"], ram), ("stack, at most", cost["stack_bound_bytes"], None)]
    used += [("flash: code and weights", cost["flash_bytes"], board.flash.usable_bytes), ("   of which code", cost["text_bytes"], None)]
    say(table(f"Memory on {board.name}, bytes", ("what", "used", "there is", "share"), [
        (what, f"{bytes_:,}", f"{there:,}" if there else "", f"{100 * bytes_ / there:.1f} %" if there else "")
        for what, bytes_, there in used if bytes_ is not None
    ], right=("used", "there is", "share")))  # fmt: skip

def main() -> int:
    """Run the demo; the exit code is that of the error, if there was one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="stm32f405", help="an emulated board of `embarq devices` (default: %(default)s)")
    parser.add_argument("--linux", default="rpi-4b", help="a Linux device of `embarq devices` (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="where the artifact goes (default: %(default)s)")
    args = parser.parse_args()
    try:
        demo(args.device, args.linux, args.output, Screen())
    except EmbarqError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("demo: stopped\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
