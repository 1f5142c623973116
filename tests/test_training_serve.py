"""The training process on a device, its methods called here: samples in pieces, a run that is stopped and goes on, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.runner.arrays import pack, unpack
from sdk.runner.errors import BadRequest, RunnerError
from sdk.training.serve import TrainingServer

torch = pytest.importorskip("torch", reason="needs torch")
X = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def trainer(rate: float = 0.1) -> object:
    from sdk.training.nn.program import read_program
    from sdk.training.nn.trainer import Trainer

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    program = read_program(net, torch.zeros(2, 6))
    return Trainer(program, [Choice(record.name) for record in program.layers], None, Training(batch=4, learning_rate=rate, optimiser="momentum"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[object]:
    """Make servers on one checkpoint; all are closed at the end."""
    made: list[TrainingServer] = []

    def new(rate: float = 0.1) -> TrainingServer:
        made.append(TrainingServer(tmp_path / "training.ckpt", trainer(rate), "net"))
        return made[-1]

    yield new
    for server in made:
        server.close()


def send(server: TrainingServer, held: int = 4) -> None:
    parts = {"x": X[held:], "y": Y[held:], "held_x": X[:held], "held_y": Y[:held]}
    for part, array in parts.items():
        for first in range(0, max(1, len(array)), 7):  # in pieces
            server.put({"part": part, "first": first, "rows": len(array), "array": pack(array[first : first + 7])})


def finish(server: TrainingServer) -> list[dict]:
    """All events until the run has ended."""
    events, running = [], True
    while running:
        answer = server.methods()["poll"]({"wait_s": 0.2})
        events += answer["events"]
        running = answer["running"]
    return events


def weights(server: TrainingServer) -> dict[str, np.ndarray]:
    return {name: unpack(server.weight({"name": name})["array"]) for name in server.weights({})["names"]}


def test_a_run_tells_every_update_and_its_result(serve):
    server = serve()
    send(server)
    assert server.info({})["input_shape"] == [6] and server.info({})["classes"] == 2
    server.start({"epochs": 3, "seed": 1})
    events = finish(server)
    assert [event["step"] for event in events] == list(range(1, 16)) and {event["of"] for event in events} == {15}
    assert [event["epoch"] for event in events if event["held_out"] is not None] == [1, 2, 3]
    found = server.result({})
    assert found["ended"] == "done" and found["steps"] == 15 and found["held_out"] == 4 and found["losses"][-1] < found["losses"][0]
    assert sorted(weights(server)) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(serve):
    whole = serve()
    send(whole)
    whole.start({"epochs": 4, "seed": 1})
    finish(whole)
    first = serve()
    send(first)
    first.run = None
    first.start({"epochs": 4, "seed": 1})
    first.run.take(5.0)
    first.stop({})
    stopped = first.result({})
    assert stopped["ended"] in ("asked to stop", "done") and first.info({})["checkpoint"]
    second = serve()
    send(second)
    second.start({"epochs": 4, "seed": 1, "resume": True})
    finish(second)
    assert second.result({})["losses"] == whole.result({})["losses"]
    for name, value in weights(whole).items():
        assert np.array_equal(value, weights(second)[name]), name
    second.forget({})
    assert not second.info({})["checkpoint"]


def test_a_new_run_does_not_begin_from_an_old_checkpoint(serve):
    first, second = serve(), serve()
    for server in (first, second):
        send(server)
        server.start({"epochs": 1, "seed": 1})
        finish(server)
    assert first.result({})["losses"] == second.result({})["losses"]


def test_a_run_that_diverges_is_told_with_its_own_exit_code(serve):
    server = serve(1e30)
    send(server)
    server.start({"epochs": 2})
    with pytest.raises(RunnerError, match="lower the learning rate") as error:
        finish(server)
    assert error.value.exit_code == 5


def test_what_makes_no_sense_is_refused_in_one_sentence(serve):
    server = serve()
    for call, params, sentence in (
        (server.start, {}, "no samples were sent"),
        (server.poll, {}, "training was not started"),
        (server.weight, {"name": "0.weight"}, "ask for weights first"),
        (server.put, {"part": "z", "first": 0, "rows": 1, "array": pack(X)}, "put needs a part of"),
        (server.put, {"part": "x", "first": 5, "rows": 24, "array": pack(X[:2])}, "do not follow what was sent before"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            call(params)


def test_ctrl_c_becomes_a_wish_to_stop_and_is_itself_again_afterwards():
    import os
    import signal

    from sdk.remote_training import _interrupts

    with _interrupts() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.wait(5)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
