"""Training over a session: what the host checks, what the board computes, and what happens when something goes wrong half-way."""

import shutil
import subprocess
from dataclasses import dataclass, field

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import training_messages
from firmware_bridge.framing import FrameReader, encode_frame
from firmware_bridge.session import BoardSession
from firmware_bridge.smp import TRAINING_REFUSALS, Refused
from sdk.errors import DataError, LinkError, TrainingDiverged, UsageError, VersionMismatch
from sdk.graph.ir import Quant, Tensor
from sdk.session import Session
from sdk.training_values import bring, take_back
from tests.bridge.board import DEVICE, HERE, INCLUDES, LoopbackLink
from tests.bridge.learning import CLASSES, ID, INPUTS, SCALE, LearnerLink, Reference, emulated, hyper, samples, values

X, Y = samples(40)
RATE = 0.125


def tensor(name, shape, dtype, quant=None):
    return Tensor(name, shape, dtype, quant)


@dataclass(frozen=True)
class Made:
    """What a session asks of an artifact."""

    manifest: dict
    files: dict = field(default_factory=dict)
    name: str = "learner"

    def tensors(self, side):
        return {"inputs": (tensor("x", (1, INPUTS), "int8", Quant((SCALE,), (0,))),), "outputs": (tensor("scores", (1, CLASSES), "float32"),)}[side]


def artifact(**more):
    rows = [
        {"name": "dense.weight", "layer": "dense", "part": "weight", "shape": [CLASSES, INPUTS], "dtype": "float32", "momentum": False},
        {"name": "dense.bias", "layer": "dense", "part": "bias", "shape": [CLASSES], "dtype": "float32", "momentum": False},
        {"name": "count", "layer": "", "part": "bias", "shape": [1], "dtype": "float32", "momentum": True},
    ]
    manifest = {"plan_id": ID.hex(), "steps": [], "training": {"learning_rate": RATE, "momentum": 0.0, "variables": rows}, **more}
    return Made(manifest)


@pytest.fixture
def session():
    return Session(artifact(), BoardSession(LearnerLink()))


def reference(order, rate=RATE):
    net = Reference()
    return net, [net.step(X[i], int(Y[i]), rate) for i in order]


# -- the way it should go ------------------------------------------------------------------------------------------------


def test_training_is_what_the_mathematics_says(session):
    told = []
    result = session.train(X, Y, epochs=2, on_step=told.append)
    net, wanted = reference([*range(40), *range(40)])
    assert result.steps == 80 and result.ended == "done" and result.accuracy is None and result.instructions is None
    assert np.allclose(result.losses, [loss for loss, _ in wanted], rtol=1e-4, atol=1e-6)
    assert [step.accuracy for step in told] == [float(p == Y[i % 40]) for i, (_, p) in enumerate(wanted)]
    assert [(step.step, step.epoch, step.of) for step in told] == [(i + 1, 1 + i // 40, 80) for i in range(80)]
    pulled = session.pull()
    assert list(pulled) == ["dense.weight", "dense.bias"]
    assert np.allclose(pulled["dense.weight"], net.weight, rtol=1e-4, atol=1e-5) and np.allclose(pulled["dense.bias"], net.bias, rtol=1e-4, atol=1e-5)
    assert session.pull(everything=True)["count"] == 80
    assert session.board.train_info().sequence == 1 and not session.board.train_info().changed
    assert result.losses[-5:] < result.losses[:5]


def test_inference_uses_what_was_learned(session):
    before = session.run(X[0])
    session.train([(X[0], int(Y[0]))] * 3, commit=False)
    net, _ = reference([0, 0, 0])
    after = session.run(X[0].astype(np.float32) * SCALE)
    assert not np.allclose(before, after)
    assert np.allclose(after[0], net.weight @ (X[0] * SCALE) + net.bias, rtol=1e-4)
    assert session.board.train_info().changed and session.board.train_info().sequence == 0


def test_training_goes_on_from_the_values_there_are(session):
    for part in (slice(0, 20), slice(20, 40)):
        session.train(zip(X[part], Y[part], strict=True))
    net, _ = reference(range(40))
    assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-5)
    assert session.board.train_info().sequence == 2


def test_held_back_samples_judge_and_are_not_learned_from(session):
    told = []
    result = session.train(X, Y, epochs=3, held_out=0.25, seed=1, on_step=told.append)
    assert [step.step for step in told] == list(range(1, 91)) and {step.of for step in told} == {90}
    assert [step.step for step in told if step.held_out is not None] == [30, 60, 90] and told[-1].held_out == result.accuracy
    assert result.held_out + result.steps // 3 == 40 and result.held_out == 10
    assert result.accuracy_before is not None and result.accuracy > result.accuracy_before and result.accuracy >= 0.8


def test_patience_stops_and_the_best_values_come_back(session):
    told = []
    result = session.train(X, Y, epochs=30, held_out=0.25, patience=2, learning_rate=1.5, on_step=told.append)
    judged = [step.held_out for step in told if step.held_out is not None]
    assert result.ended == "early stop" and len(judged) < 30
    assert result.accuracy == max(judged) and judged.index(max(judged)) == len(judged) - 3
    right = 0
    from sdk.remote_training import hold_back

    held = hold_back(np.arange(40), Y, 0.25, 0).held_x
    for i in held:
        right += int(np.argmax(session.run(X[i]))) == Y[i]
    assert right / len(held) == result.accuracy


def test_a_rate_that_decays_is_lower_in_every_epoch(session):
    told = []
    result = session.train(X, Y, epochs=3, decay=True, learning_rate=RATE, on_step=told.append)
    net, losses = Reference(), []
    for rate in (RATE, 0.75 * RATE, 0.25 * RATE):  # half a cosine at 0, 1/3 and 2/3 of the way
        losses += [net.step(X[i], int(Y[i]), rate)[0] for i in range(40)]
    assert np.allclose(result.losses, losses, rtol=1e-4, atol=1e-6)
    assert [step.step for step in told] == list(range(1, 121)) and session.board.train_info().step == 40
    assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-5)


def test_early_stop_ends_after_the_step_that_it_was_told_of(session):
    result = session.train(X, Y, early_stop=lambda step: step.step == 7)
    assert result.steps == 7 and result.ended == "early stop" and session.board.train_info().step == 7


def test_values_move_from_board_to_board(session):
    session.train(X, Y)
    other = Session(artifact(), BoardSession(LearnerLink()))
    other.push(session.pull())
    assert all(np.array_equal(a, b) for a, b in zip(values(other.board)[:2], values(session.board)[:2], strict=True))
    assert other.board.train_info().changed and other.commit().sequence == 1


def test_forget_and_commit(session):
    session.train(X[:5], Y[:5])
    kept = session.pull()
    session.train(X[5:9], Y[5:9], commit=False)
    assert session.forget().sequence == 1 and np.array_equal(session.pull()["dense.weight"], kept["dense.weight"])
    assert session.forget(everything=True).sequence == 0 and np.array_equal(session.pull()["dense.bias"], np.float32([0.25, -0.5, 0.125]))


def test_an_emulated_board_counts_the_instructions_of_a_step():
    board, link = emulated("stm32f405")
    with Session(artifact(), link, board) as session:
        result = session.train(X, Y)
        net, wanted = reference(range(40))
        assert np.allclose(result.losses, [loss for loss, _ in wanted], rtol=1e-4, atol=1e-6)
        assert 2000 < result.instructions < 6000
        assert "instructions an update" in str(result)
        assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-5)
        session.board.reset()
        assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-5)


def reopened(made, link):
    """A session as `open_session` begins it."""
    session = Session(made, BoardSession(link))
    bring(session)
    return session


def test_an_artifact_brings_what_was_trained_to_a_board_that_has_learned_nothing(session):
    session.train(X, Y)
    made = session.trained_artifact()
    assert {f"trained/{i}.npy" for i in range(3)} == set(made.manifest["files"]) == set(made.files) and made.manifest["trained"] == {"variables": 3}
    link = LearnerLink()
    other = reopened(made, link)
    assert np.array_equal(other.pull()["dense.weight"], session.pull()["dense.weight"]) and other.board.train_info().sequence == 1
    other.train(X[:3], Y[:3])
    newer = other.pull()
    link.start()
    assert np.array_equal(reopened(made, link).pull()["dense.weight"], newer["dense.weight"])  # what the board learned since stays


def test_a_board_that_cannot_commit_gets_the_trained_values_at_every_start(session):
    session.train(X, Y)
    made, link = session.trained_artifact(), LearnerLink(slot_bytes=0)
    other = reopened(made, link)
    assert np.array_equal(other.pull()["dense.bias"], session.pull()["dense.bias"]) and other.board.train_info().changed
    take_back(other)  # as a proof does, which begins from the firmware's values
    assert not other.board.train_info().changed and np.array_equal(other.pull()["dense.bias"], np.float32([0.25, -0.5, 0.125]))
    bring(other)
    other.train(X[:1], Y[:1])
    take_back(other)  # what was learned since is not the artifact's, and stays
    assert other.board.train_info().changed


def test_an_artifact_without_its_trained_files_says_so(session):
    session.train(X, Y)
    made = session.trained_artifact()
    del made.files["trained/1.npy"]
    with pytest.raises(DataError, match=r"the artifact of learner lacks trained/1\.npy, which holds trained values; train it again"):
        reopened(made, LearnerLink())


# -- what the host refuses -----------------------------------------------------------------------------------------------

GOOD = (X[0], 1)
BAD_SAMPLES = [
    ([], r"there are no samples to learn from; give \(input, label\) pairs"),
    ([GOOD, X[0]], r"sample 1 is no pair of input and label"),
    ([GOOD, (X[0], 3)], r"the label 3 of sample 1 is none of the model's 3 classes; labels count from 0 to 2"),
    ([(X[0], -1)], r"the label -1 of sample 0 is none of the model's 3 classes"),
    ([(X[0], 1.0)], r"the label of sample 0 is float64\[\]; give one whole number"),
    ([(X[0], [0, 1])], r"the label of sample 0 is int64\[2\]; give one whole number"),
    ([(X[0][:39], 1)], r"sample 0 does not fit: input x has shape \[39\] and the model takes \[1, 40\]; reshape it"),
    ([(X[0].astype(np.int16), 1)], r"sample 0 does not fit: input x is int16 and the model takes int8; convert it first"),
    ([(np.full(40, np.nan), 1)], r"sample 0 holds NaN or infinity; leave it out"),
    ([((X[0], X[0]), 1)], r"sample 0 has 2 inputs and learner takes 1"),
    (7, r"a int is no stream of samples"),
]


@pytest.mark.parametrize(("stream", "sentence"), BAD_SAMPLES, ids=range(len(BAD_SAMPLES)))
def test_samples_that_are_refused(session, stream, sentence):
    with pytest.raises(DataError, match=sentence):
        session.train(stream)
    assert session.board.train_info().sequence == 0


def test_a_bad_sample_in_the_middle_loses_nothing_before_it(session):
    with pytest.raises(DataError, match="sample 3 holds NaN"):
        session.train([(X[i], int(Y[i])) for i in range(3)] + [(np.full(40, np.inf), 0)])
    net, _ = reference(range(3))
    assert np.allclose(session.pull()["dense.bias"], net.bias, rtol=1e-4) and session.commit().sequence == 1


BAD_OPTIONS = [
    ({"epochs": 0}, UsageError, "0 epochs with a patience of 0 are not possible"),
    ({"learning_rate": -1.0}, UsageError, r"a learning rate of -1.0 with momentum 0.0 is not possible"),
    ({"learning_rate": float("nan")}, UsageError, r"a learning rate of nan"),
    ({"momentum": 1.0}, UsageError, r"momentum 1.0 is not possible"),
    ({"patience": 2}, UsageError, r"patience judges by samples that are held back, and none are"),
    ({"speed": 2}, UsageError, r"training has no option speed; it has epochs, learning_rate"),
    ({"held_out": 1.5}, UsageError, r"1.5 of the samples cannot be held back"),
]


@pytest.mark.parametrize(("options", "kind", "sentence"), BAD_OPTIONS, ids=range(len(BAD_OPTIONS)))
def test_options_that_are_refused(session, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        session.train(X, Y, **options)


def test_what_a_stream_read_once_cannot_do(session):
    for options in ({"epochs": 2}, {"held_out": 0.5}):
        with pytest.raises(DataError, match="the stream can be read only once"):
            session.train(iter([GOOD]), **options)
    with pytest.raises(DataError, match="40 inputs came with 39 labels"):
        session.train(X, Y[:-1])


def test_values_that_are_refused(session):
    for value, sentence in (
        ({"dense.weight": np.zeros((3, 39))}, r"variable dense.weight was given \[3, 39\] and has \[3, 40\]"),
        ({"dense.bias": np.array([0, np.nan, 0])}, "the values for dense.bias hold NaN or infinity"),
        ({"dense.bias": np.zeros(3, complex)}, "variable dense.bias was given complex128 and holds float32"),
        ({"dense.scale": np.zeros(3)}, "the board has no variable dense.scale; it has dense.weight, dense.bias, count"),
    ):
        with pytest.raises(DataError, match=sentence):
            session.push(value)
    assert not session.board.train_info().changed
    with pytest.raises(DataError, match=r"variable dense\.bias was given 5 bytes and has 12"):
        session.board.write_variable(1, b"five!")


def test_a_model_for_inference_only_does_not_learn():
    made = artifact()
    del made.manifest["training"]
    session = Session(made, BoardSession(LearnerLink()))
    for call in (lambda: session.train(X, Y), session.pull, lambda: session.push({}), session.forget):
        with pytest.raises(UsageError, match=r"learner was compiled for inference only; compile it with training=sdk.Training"):
            call()
    with pytest.raises(UsageError, match="the firmware on loopback does not learn; compile the model with training"):
        BoardSession(LoopbackLink()).train_info()


def test_another_number_of_variables_is_another_firmware():
    made = artifact()
    made.manifest["training"]["variables"].pop()
    with pytest.raises(VersionMismatch, match="has 3 variables and this artifact 2"):
        Session(made, BoardSession(LearnerLink())).pull()


# -- when something goes wrong -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_takes_the_last_good_values_back(session):
    session.train(X[:6], Y[:6])
    good = session.pull()
    with pytest.raises(TrainingDiverged, match=r"step \d+ gave a loss of (nan|inf); the board's values are again those of the copy 1 in its flash: lower"):
        session.train(X, Y, learning_rate=3e38)
    assert np.array_equal(session.pull()["dense.weight"], good["dense.weight"]) and not session.board.train_info().changed
    session.forget(everything=True)
    with pytest.raises(TrainingDiverged, match="again those the firmware came with"):
        session.train(X, Y, learning_rate=3e38)


def test_ctrl_c_leaves_what_was_learned_on_the_board(session):
    def interrupt(step):
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.train(X, Y, on_step=interrupt)
    net, _ = reference(range(5))
    assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-6)
    assert session.commit().sequence == 1 and session.train(X[5:], Y[5:]).steps == 35


@pytest.mark.parametrize("lost", [2, 3, 5])
def test_lost_and_damaged_messages_train_nothing_twice(lost):
    """Every few frames get lost on the way there or on the way back; the steps are done once each, in order."""
    link = LearnerLink()
    session = Session(artifact(), BoardSession(link))
    link.to_board = lambda data: data if link.frames % lost else data[: len(data) // 2]
    link.to_host = lambda data: data if link.frames % lost != 1 or link.frames % 4 else b""
    session.train(X, Y)
    link.to_board = link.to_host = lambda data: data
    net, _ = reference(range(40))
    assert np.allclose(session.pull()["dense.weight"], net.weight, rtol=1e-4, atol=1e-5)
    assert session.pull(everything=True)["count"] == 40 and session.board.train_info().sequence == 1


def test_values_that_change_under_way_are_found(session):
    session.board.train_start(RATE)
    real = session.board.link.to_host
    session.board.link.to_host = lambda data: data
    info = session.board.variable(0)
    session.board.variable = lambda index: type(info)(0, info.name, info.size_bytes, info.crc ^ 1)
    for call in (lambda: session.board.read_variable(0), lambda: session.board.write_variable(0, bytes(480))):
        with pytest.raises(LinkError, match=r"variable dense.weight (arrived from learner with another CRC-32|did not arrive on learner as it was sent)"):
            call()
    session.board.link.to_host = real


def test_samples_longer_than_a_message_are_sent_in_pieces():
    link = LearnerLink(buffer_size=256)
    board = BoardSession(link)
    board.train_start(RATE)
    board._room = lambda request: 16  # as a sample of many messages would have it
    for i in range(3):
        board.train_step(i + 1, int(Y[i]), X[i].tobytes())
    net, _ = reference(range(3))
    assert np.allclose(values(board)[0], net.weight.ravel(), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="training cannot start from 'nowhere'; choose one of present, committed, firmware"):
        board.train_start(RATE, base="nowhere")


# -- the messages themselves -----------------------------------------------------------------------------------------------


def frame(command, content=None, write=True, version=1):
    payload = cbor2.dumps(content or {})
    return encode_frame(bytes([version << 3 | 2 * write, 0, *len(payload).to_bytes(2, "big"), 0, 65, 9, command]) + payload)


def ask(link, command, content=None, write=True, version=1):
    link.write(frame(command, content, write, version))
    (answer,) = FrameReader().feed(link.read(1 << 20, 0))
    assert answer[0] == version << 3 | 2 * write + 1 and answer[4:8] == bytes([0, 65, 9, command])
    return cbor2.loads(answer[8:])


STEP = {"step": 1, "label": 1, "data": bytes(INPUTS)}
REFUSED = [
    ("BAD_REQUEST", 1, {}, True, False),
    ("BAD_REQUEST", 1, {"base": 3, "hyper": bytes(16)}, True, False),
    ("BAD_REQUEST", 1, {"base": 0, "hyper": bytes(15)}, True, False),
    ("BAD_REQUEST", 1, {"base": 0, "hyper": "sixteen letters!"}, True, False),
    ("BAD_REQUEST", 2, {"step": 1}, True, True),
    ("BAD_REQUEST", 2, {**STEP, "data": "text"}, True, True),
    ("BAD_REQUEST", 3, {"i": 0, "off": 0}, False, False),
    ("BAD_REQUEST", 4, {"i": 0, "off": 0}, True, False),
    ("BAD_REQUEST", 6, {"all": 1}, True, False),
    ("NO_VARIABLE", 3, {}, False, False),
    ("NO_VARIABLE", 3, {"i": 3}, False, False),
    ("NO_VARIABLE", 4, {"i": 2**32 - 1, "off": 0, "data": b""}, True, False),
    ("BAD_OFFSET", 3, {"i": 1, "off": 13, "len": 0}, False, False),
    ("BAD_OFFSET", 3, {"i": 1, "off": 0, "len": 13}, False, False),
    ("BAD_OFFSET", 4, {"i": 1, "off": 8, "data": bytes(5)}, True, False),
    ("BAD_OFFSET", 4, {"i": 1, "off": 2**32 - 2, "data": bytes(5)}, True, False),
    ("NOT_READY", 2, {"step": 1, "label": 0}, True, True),
    ("BAD_STEP", 2, {**STEP, "step": 0}, True, True),
    ("BAD_STEP", 2, {**STEP, "step": 2}, True, True),
    ("BAD_STEP", 2, {**STEP, "step": 2**32 - 1}, True, True),
    ("BAD_LABEL", 2, {**STEP, "label": 3}, True, True),
    ("BAD_LENGTH", 2, {**STEP, "data": bytes(39)}, True, True),
    ("BAD_LENGTH", 2, {**STEP, "data": bytes(41)}, True, True),
    ("NOT_STARTED", 2, STEP, True, False),
]


@pytest.mark.parametrize(("name", "command", "content", "write", "started"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_requests_that_the_board_refuses(name, command, content, write, started):
    link = LearnerLink()
    if started:
        ask(link, 1, {"base": 0, "hyper": hyper(RATE)})
    code = int(training_messages.TrainingError[name])
    before = ask(link, 0, write=False)
    assert ask(link, command, content, write) == {"err": {"group": 65, "rc": code}}
    assert ask(link, command, content, write, version=0) == {"rc": 3}
    assert ask(link, 0, write=False) == before and code in TRAINING_REFUSALS


def test_commands_that_do_not_exist_or_come_the_wrong_way():
    link = LearnerLink()
    for command, write in ((7, True), (7, False), (0, True), (1, False), (2, False), (5, False), (6, False), (255, True)):
        assert ask(link, command, write=write) == {"rc": 8}


def test_a_model_for_another_runtime_is_not_touched():
    link = LearnerLink(abi=2)
    for command in range(7):
        assert ask(link, command, write=command not in (0, 3)) == {"err": {"group": 65, "rc": 8}}


def test_requests_that_come_twice_do_no_harm():
    link = LearnerLink()
    started = {"base": 1, "hyper": hyper(RATE)}
    assert ask(link, 1, started) == ask(link, 1, started) == {"seq": 0, "changed": 0}
    for k in (1, 2):
        request = {"step": k, "label": int(Y[k]), "data": X[k].tobytes()}
        first = ask(link, 2, request)
        assert ask(link, 2, request) == first == ask(link, 2, {"step": k, "label": 0}) and first["step"] == k
    net, wanted = reference([1, 2])
    assert np.allclose(first["loss"], wanted[1][0], rtol=1e-5) and first["pred"] == wanted[1][1]
    part = {"i": 1, "off": 4, "data": np.float32(7).tobytes()}
    assert ask(link, 4, part) == ask(link, 4, part) == {"off": 8}
    bias = np.frombuffer(ask(link, 3, {"i": 1, "off": 0, "len": 12}, False)["data"], "<f4")
    assert np.allclose(bias, [net.bias[0], 7, net.bias[2]], rtol=1e-5) and bias[1] == 7
    assert ask(link, 5) == ask(link, 5) == {"seq": 1, "changed": 0}
    ask(link, 4, {"i": 1, "off": 0, "data": bytes(4)})
    assert ask(link, 6) == ask(link, 6) == {"seq": 1, "changed": 0}
    assert ask(link, 6, {"all": True}) == ask(link, 6, {"all": True}) == {"seq": 0, "changed": 0}


def test_a_start_from_the_firmware_values_leaves_the_copy_in_flash():
    link = LearnerLink()
    ask(link, 1, {"base": 0, "hyper": hyper(RATE)})
    ask(link, 2, STEP)
    ask(link, 5)
    assert ask(link, 1, {"base": 2, "hyper": hyper(RATE)}) == {"seq": 1, "changed": 1}
    assert ask(link, 3, {"i": 1, "off": 0, "len": 12}, False)["data"] == np.float32([0.25, -0.5, 0.125]).tobytes()
    assert ask(link, 1, {"base": 1, "hyper": hyper(RATE)}) == {"seq": 1, "changed": 0}


def test_a_self_test_does_not_lose_what_was_learned():
    link = LearnerLink()
    board = BoardSession(link)
    board.train_start(RATE)
    board.train_step(1, 1, X[0].tobytes())
    with pytest.raises(Refused, match="a self-test would lose values that were trained and not committed; commit or forget them first"):
        board.self_test()
    board.commit()
    kept = values(board)
    board.self_test()  # writes over the whole arena
    assert all(np.array_equal(a, b) for a, b in zip(values(board), kept, strict=True))


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 12, 13, 40, 479, 480, 481, 2**16, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
FUZZED = st.dictionaries(
    st.sampled_from(["base", "hyper", "step", "label", "data", "i", "off", "len", "all", "x"]),
    NUMBERS | st.booleans() | st.binary(max_size=60) | st.sampled_from([bytes(16), bytes(40), X[0].tobytes()]) | st.text(max_size=4) | st.none(),
)  # fmt: skip


@pytest.mark.parametrize(("buffer", "unit"), [(256, 4), pytest.param(264, 256, marks=pytest.mark.long)])
def test_whatever_comes_the_bridge_touches_its_own_memory_only(tmp_path, buffer, unit):
    """Thousands of requests, sensible and not, through a build with address and undefined-behaviour sanitizers."""
    program = tmp_path / "board"
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *INCLUDES]
    sources = [HERE / "learning_board.c", HERE / "learner.c", *sorted(DEVICE.glob("*.c"))]
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, which brings the sanitizers")
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(program)], check=True, capture_output=True)
    frames = bytearray()

    @given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), FUZZED), min_size=1, max_size=30))
    @settings(max_examples=100, deadline=None, database=None)
    def collect(requests):
        frames.extend(frame(1, {"base": 1, "hyper": hyper(RATE)}) + frame(2, STEP))
        for command, write, content in requests:
            frames.extend(frame(command, content, write))

    collect()
    done = subprocess.run([str(program), str(buffer), str(unit), "1024"], input=bytes(frames), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [cbor2.loads(answer[8:]) for answer in FrameReader().feed(done.stdout)]
    assert len(answers) == frames.count(b"\x06\x09") and sum("pred" in answer for answer in answers) >= 100


@pytest.mark.long
@pytest.mark.qemu
def test_qemu_trains_to_the_same_bits():
    """A second opinion on the emulated board, on the protocol, and on a board whose flash keeps nothing (QEMU's is read-only)."""
    from tests.bridge.firmware import learner
    from tests.qemu import Qemu

    learned = []
    for name in ("mps2-an386", "netduinoplus2"):
        _, emulator = emulated(name)
        machine = BoardSession(Qemu(name, learner(name), icount=False), timeout_s=40.0, run_timeout_s=60.0)
        for board in (emulator, machine):
            board.train_start(RATE)
            for i in range(12):
                board.train_step(i + 1, int(Y[i]), X[i].tobytes())
            learned.append(values(board))
        with pytest.raises(Refused, match="there is no flash set aside" if name == "mps2-an386" else "the flash does not keep what is written"):
            machine.commit()
        machine.close()
    assert all(np.array_equal(a, b) for other in learned[1:] for a, b in zip(learned[0], other, strict=True))
