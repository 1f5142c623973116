"""Does training on the device help? Four tasks on real data, every method on the same batches, three seeds, or five where they lie far apart.

Pictures: MobileNetV2-0.35, trained on clean CIFAR-10, goes on learning from 1,000 labelled pictures of a camera in the dark, or of one
with little contrast, and is tested on 5,000 test pictures of that camera. Movement: a net trained on the phones of other people is
personalised with a person's first five walks and tested on their later ones, with the phone in the pocket or with a watch on the wrist;
the mean over four people. Rates were chosen on other training pictures, and on two other people.

"mcu" is a microcontroller's way, computed by torch: adapters and the classifier, single samples, no momentum. "board" is the emulated
board itself, an int8 net behind which the last layers learn, within 256 KiB; one seed, for it takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks import har, small_nets, training_nets, training_peers
from benchmarks.rows import Row
from benchmarks.shifts import shift
from benchmarks.train_small import images
from benchmarks.training_methods import batched, learning, trainer

METHODS = ("classifier", "exact", "full", "fixed", "fixed@0.8", "asi", "hosvd", "svd", "adapter", "mcu", "board")
#: what a microcontroller does: adapters at eps 0.9 on the wide layers, one sample at a time, no momentum
MCU = "adapter@0.9"
#: what plain autograd does, for comparison: everything learns, or the last layer alone
PLAIN = {"full": "all", "classifier": "classifier"}


@dataclass(frozen=True)
class Recipe:
    """How a task is learned. epochs, rates: by method, "" for all that have none of their own. layers: which learn, as the benchmark names them."""

    layers: str
    epochs: dict[str, int]
    rates: dict[str, float]
    batch: int = 32
    board_layers: str = "last4"

    def rate(self, method: str) -> float:
        """The learning rate of a method."""
        return self.rates.get(method.split("@")[0], self.rates[""])

    def batch_of(self, method: str) -> int:
        """Samples per update: one on a microcontroller."""
        return 1 if method == "mcu" else self.batch


@dataclass(frozen=True)
class Part:
    """One user: x, y learned from, tx, ty tested on; known: inputs [n, ...] of the kind the net was trained on, with labels."""

    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    tx: np.ndarray = field(repr=False)
    ty: np.ndarray = field(repr=False)
    known: tuple[np.ndarray, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class Task:
    """A net, its users' data (made when asked for), the recipe, the methods that are tried, and the seeds of the order of samples."""

    name: str
    net: Callable[[], Any]
    parts: Callable[[], Sequence[Part]]
    recipe: Recipe
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)


def camera_parts(kind: str, severity: int) -> list[Part]:
    """1,000 training pictures and 5,000 test pictures of a camera that does `kind` to them."""
    x, y = training_nets.training_pictures()
    tx, ty = images(training_nets.DATA / "cifar10" / "cifar10_jpeg_test.npz")
    seen = [training_nets.to_input(shift(p, kind, severity, seed)) for seed, p in enumerate((x[:1000], tx))]
    return [Part(seen[0], y[:1000], seen[1], ty, training_nets.clean_pictures("mobilenetv2_035_32", 512))]


def person_parts(device: str, trained_on: str, people: Sequence[int] = har.TESTED) -> list[Part]:
    """For each person the windows of `device`; known: what the net was trained on, of other people."""
    path = training_nets.DATA / "har" / "spsw_har_public.npz"
    found, before = har.windows(path, device), har.windows(path, trained_on)
    strangers = before.of(~np.isin(before.subject, har.HELD_OUT))
    picked = np.random.default_rng(0).permutation(len(strangers.y))[:256]
    parts = []
    for person in people:
        learn, test = har.split(found, person)
        parts.append(Part(learn.x, learn.y, test.x, test.y, (strangers.x[picked], strangers.y[picked])))
    return parts


#: how a camera's pictures are learned, and by which methods
CAMERA = Recipe("all", {"": 8}, {"": 0.0005, "classifier": 0.02})
CAMERA_METHODS = ("classifier", "exact", "full", "fixed", "asi", "adapter")
#: name -> task
TASKS: dict[str, Task] = {
    "har_person": Task(
        "har_person", partial(har.pretrained, "phone"), partial(person_parts, "phone", "phone"),
        Recipe("last4", {"": 20, "mcu": 8, "board": 6}, {"": 0.01, "classifier": 0.1, "full": 0.003, "mcu": 0.005, "board": 0.005}, 16),
        seeds=(0, 1, 2, 3, 4),
    ),
    "har_wrist": Task(
        "har_wrist", partial(har.pretrained, "phone"), partial(person_parts, "watch", "phone"),
        Recipe("last4", {"": 20, "mcu": 8, "board": 6}, {"": 0.01, "classifier": 0.1, "full": 0.003, "mcu": 0.005, "board": 0.005}, 16),
        seeds=(0, 1, 2, 3, 4),
    ),
    "cifar10_night": Task(
        "cifar10_night", partial(small_nets.pretrained, "mobilenetv2_035"), partial(camera_parts, "night", 5), CAMERA, CAMERA_METHODS
    ),
    "cifar10_contrast": Task(
        "cifar10_contrast", partial(small_nets.pretrained, "mobilenetv2_035"), partial(camera_parts, "contrast", 5), CAMERA, CAMERA_METHODS,
        seeds=(0, 1, 2, 3, 4),
    ),
}  # fmt: skip


def outcome(task: Task, method: str, seed: int) -> list[float]:
    """Accuracy after learning by `method`, of each of the task's users. "before": nothing was learned."""
    import torch

    torch.set_num_threads(1)
    if method == "board":
        return [_on_board(task, part, seed) for part in _parts(task.name)]
    return [_accuracy(_learned(task, i, method, seed), part) for i, part in enumerate(_parts(task.name))]


@cache
def _parts(name: str) -> Sequence[Part]:
    return TASKS[name].parts()


def order(count: int, batch: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of every batch: each epoch a new order, what does not fill a batch left for the next epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        mixed = rng.permutation(count)
        yield from (mixed[i : i + batch] for i in range(0, count - batch + 1, batch))


def _learned(task: Task, index: int, method: str, seed: int) -> Any:
    """The task's net after user `index` taught it by `method`."""
    import torch

    net, recipe, part = task.net(), task.recipe, _parts(task.name)[index]
    if method == "before":
        return net
    x, y = torch.from_numpy(part.x), torch.from_numpy(part.y)
    batches = order(len(y), recipe.batch_of(method), recipe.epochs.get(method, recipe.epochs[""]), seed)
    if method in PLAIN:
        return training_peers.fit(training_peers.plain(net, training_peers.last(net, PLAIN[method])), x, y, batches, recipe.rate(method))
    one = trainer(_known(task.name, index), MCU if method == "mcu" else method, wish(recipe, method, seed))
    for rows in batches:
        one.step(x[rows], y[rows])
    return one.module().eval()


def _on_board(task: Task, part: Part, seed: int) -> float:
    """Accuracy after the emulated board learned: budget 256 KiB, the classifier whole and adapters, single samples."""
    import sdk
    from benchmarks.training_mcu import accuracy_on_board

    rate, epochs = task.recipe.rate("board"), task.recipe.epochs["board"]
    training = sdk.Training(batch=1, layers=task.recipe.board_layers, learning_rate=rate, budget="256KiB", seed=seed)
    return accuracy_on_board(task.net(), part, training, epochs)


@cache
def _known(name: str, index: int) -> Any:
    """The task's net, calibrated on what it was trained on: the same for all methods and seeds."""
    net = TASKS[name].net()
    return learning(net, batched(*_parts(name)[index].known), training_peers.last(net, TASKS[name].recipe.layers))


def wish(recipe: Recipe, method: str, seed: int) -> Any:
    """What is asked of our trainer: the recipe's batch and rate, momentum 0.9; on a microcontroller single samples, no momentum, float32."""
    import sdk

    optimiser, factors = ("sgd", "float32") if method == "mcu" else ("momentum", "auto")
    return sdk.Training(batch=recipe.batch_of(method), optimiser=optimiser, learning_rate=recipe.rate(method), seed=seed, factors=factors)


def _accuracy(net: Any, part: Part) -> float:
    import torch

    with torch.no_grad():
        right = [net(torch.from_numpy(part.tx[i : i + 250])).argmax(1).numpy() == part.ty[i : i + 250] for i in range(0, len(part.ty), 250)]
    return float(np.concatenate(right).mean())


def rows(task: str, methods: Sequence[str], seeds: Sequence[int], jobs: int) -> Iterator[list[Row]]:
    """The rows of each method on one task, as they are done; exact training and full fine-tuning are run in any case."""
    wanted = list(dict.fromkeys(["exact", "full", *methods]))
    with ProcessPoolExecutor(jobs) as pool:
        before = pool.submit(outcome, TASKS[task], "before", 0)
        futures = {m: [pool.submit(outcome, TASKS[task], m, seed) for seed in (seeds[:1] if m == "board" else seeds)] for m in wanted}
        start = float(np.mean(before.result()))
        found: dict[str, list[float]] = {}
        for method in wanted:
            found[method] = [float(np.mean(f.result())) for f in futures[method]]
            if "full" in found:
                yield from (task_rows(task, m, start, found) for m in (("exact", "full") if method == "full" else (method,)))


def task_rows(task: str, method: str, before: float, found: dict[str, list[float]]) -> list[Row]:
    """The figures of one method. found: accuracy of each seed, by method, "exact" and "full" among them."""
    case, mean = f"task/{task}/{method}", {name: float(np.mean(values)) for name, values in found.items()}
    gain, full = mean[method] - before, mean["full"] - before
    points = 100 * np.array(found[method])
    return [
        Row(case, "accuracy_before", before, "fraction", "higher"),
        Row(case, "accuracy", mean[method], "fraction", "higher", {name: mean[name] for name in PLAIN if name in mean and name != method}),
        Row(case, "accuracy_spread_points", float(points.std(ddof=1)) if len(points) > 1 else 0.0, "points", "lower"),
        Row(case, "recovery_points", 100 * (mean[method] - mean["exact"]), "points", "higher"),
        Row(case, "share_of_full", gain / full if full else float("nan"), "fraction", "higher"),
    ]
