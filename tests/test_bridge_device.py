"""The C half, compiled for this computer: every command, every refusal, and requests that come twice."""

import re
import zlib

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smp import packet as smp_packet

from firmware_bridge import messages, smp, training_messages
from firmware_bridge.framing import FrameReader, encode_frame
from tests.bridge.board import DEVICE, SIZE, STEPS, LoopbackLink, expected

IMAGE, BIAS = bytes(i % 251 for i in range(SIZE)), bytes(range(8))


def packet(group, command, content=b"\xa0", op=0, version=1, sequence=7, length=None):
    payload = content if isinstance(content, bytes) else cbor2.dumps(content)
    size = len(payload) if length is None else length
    return bytes([version << 3 | op, 0, *size.to_bytes(2, "big"), *group.to_bytes(2, "big"), sequence, command]) + payload


def ask_raw(board, raw):
    """Packets that the board answers to one frame."""
    board.write(encode_frame(raw))
    return FrameReader().feed(board.read(1 << 20, 0))


def ask(board, group, command, content=b"\xa0", op=0, **more):
    (answer,) = ask_raw(board, packet(group, command, content, op, **more))
    assert answer[0] == (more.get("version", 1) << 3 | op + 1) and answer[6] == more.get("sequence", 7)
    assert answer[1] == 0 and answer[7] == command and int.from_bytes(answer[4:6], "big") == group
    assert int.from_bytes(answer[2:4], "big") == len(answer) - 8
    return cbor2.loads(answer[8:])


def model(board, command, content=b"\xa0", write=False):
    return ask(board, 64, command, content, 2 if write else 0)


def fill(board):
    for i, data in enumerate((IMAGE, BIAS)):
        for off in range(0, len(data), 200):
            model(board, 2, {"i": i, "off": off, "data": data[off : off + 200]}, write=True)


@pytest.fixture
def board():
    return LoopbackLink(512)


# -- SMP itself -------------------------------------------------------------------------------------------------------


def test_echo_to_the_byte(board):
    board.write(b"\x06\x09ABAKAAAGAAAAAKFhZGJoaeJ8\n")
    assert board.read(100, 0) == b"\x06\x09ABALAAAGAAAAAKFhcmJoaaUj\n"  # its CRC is binascii.crc_hqx's


def test_answers_are_framed_as_the_smp_package_would(board):
    raw = packet(0, 0, {"d": "x" * 400}, 2)
    board.write(encode_frame(raw))
    answer = board.read(4096, 0)
    assert answer == b"".join(smp_packet.encode(FrameReader().feed(answer)[0], line_length=128))
    assert max(map(len, answer.splitlines())) <= 126 and answer.count(b"\x04\x14") == 4


@pytest.mark.parametrize("line_length", [8, 12, 40, 124, 128])
def test_any_line_length_and_carriage_returns_are_read(board, line_length):
    frame = b"".join(smp_packet.encode(packet(0, 0, {"d": "y" * 300}, 2), line_length=line_length))
    board.write(frame.replace(b"\n", b"\r\n"))
    assert cbor2.loads(FrameReader().feed(board.read(4096, 0))[0][8:]) == {"r": "y" * 300}


def test_parameters(board):
    assert ask(board, 0, 6) == {"buf_size": 512, "buf_count": 1}


def test_reset_is_answered_then_done(board):
    assert ask(board, 0, 5, op=2) == {} and board.board.board_resets() == 1
    assert ask(board, 0, 5, {"force": 1, "boot_mode": 0}, op=2) == {} and board.board.board_resets() == 2
    assert ask(board, 0, 5, op=0) == {"rc": 8} and board.board.board_resets() == 2


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (packet(1, 0), 8),  # image group: not there yet
        (packet(65, 0), 8),
        (packet(0, 2), 8),
        (packet(0, 6, op=2), 8),
        (packet(64, 10), 8),
        (packet(64, 255), 8),
        (packet(64, 0, op=2), 8),  # info is no write
        (packet(64, 3), 8),  # run is no read
        (packet(0, 0, {"d": 5}, 2), 3),
        (packet(0, 0, {}, 2), 3),
        (packet(0, 0, b"", 2), 3),
        (packet(0, 0, [], 2), 3),  # not a map
        (packet(0, 0, b"\xa1\x61d\x62hi\x00", 2), 3),  # something after the map
        (packet(0, 0, b"\xbf\x61d\x62hi\xff", 2), 3),  # indefinite length
        (packet(0, 0, b"\xa1\x61d\x78\x40hi", 2), 3),  # text longer than the message
        (packet(0, 0, b"\xa1\x61d\x9b\xff\xff\xff\xff\xff\xff\xff\xff", 2), 3),  # 2^64 elements
        (packet(0, 0, b"\xa1\x61d\x9a\xff\xff\xff\xff", 2), 3),
        (packet(0, 0, b"\xa1\x61d" + b"\x81" * 300, 2), 3),  # an array in an array in an array...
        (packet(0, 0, b"\xa1\x61d\xdf", 2), 3),  # reserved head
        (packet(0, 0, b"\xa1\x01\x02", 2), 3),  # key is no text
        (packet(0, 0, {"d": "x"}, 2, length=4), 9),
        (packet(0, 0, {"d": "x"}, 2, length=60000), 9),
        (packet(0, 0, {"d": "x"}, 2, version=2), 13),
        (packet(0, 0, {"d": "x" * 600}, 2), 7),  # longer than the buffer
        (packet(64, 2, {"i": 0, "off": 0, "data": b"x" * 600}, 2), 7),
    ],
    ids=range(25),
)  # fmt: skip
def test_requests_that_smp_refuses(board, raw, code):
    (answer,) = ask_raw(board, raw)
    assert cbor2.loads(answer[8:]) == {"rc": code}
    assert code in smp.SMP_REFUSALS
    assert ask(board, 0, 0, {"d": "alive"}, op=2) == {"r": "alive"}


@pytest.mark.parametrize("op", [1, 3, 4, 5, 6, 7])
def test_answers_are_never_answered(board, op):
    assert ask_raw(board, packet(0, 0, {"d": "x"}, op)) == []


def test_frames_too_short_for_a_header_are_dropped(board):
    body = b"\x00\x04" + b"ab" + smp_packet.crc16_func(b"ab").to_bytes(2, "big")
    import base64

    board.write(b"\x06\x09" + base64.b64encode(body) + b"\n")
    assert board.read(100, 0) == b""
    assert ask(board, 0, 6)["buf_count"] == 1


def test_bytes_outside_of_frames_are_anothers(board):
    board.write(b"name%\r\n")
    assert board.board.board_texts() == 7
    board.write(encode_frame(packet(0, 6)))
    assert board.board.board_texts() == 7  # nothing of a frame gets there
    broken = encode_frame(packet(0, 6)).replace(b"A", b"!")
    board.write(broken)
    assert board.board.board_texts() == 7  # nor of a damaged one


@given(st.dictionaries(st.text(max_size=5).filter(lambda k: k != "d"), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**32), 2**32 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 9), inner, max_size=3), max_leaves=6), max_size=4),
    st.text(max_size=40))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_unknown_keys_of_any_kind_are_stepped_over(board, others, text):
    raw = packet(0, 0, {**others, "d": text}, 2)
    if len(raw) <= 512:
        assert cbor2.loads(ask_raw(board, raw)[0][8:]) == {"r": text}


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_a_changed_byte_is_never_another_request(board, data):
    frame = bytearray(encode_frame(packet(0, 0, {"d": "the quick brown fox " * 12}, 2)))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    board.write(bytes(frame) + b"\n")
    answers = FrameReader().feed(board.read(4096, 0))
    assert [cbor2.loads(a[8:]) for a in answers] in ([], [{"r": "the quick brown fox " * 12}])
    assert ask(board, 0, 0, {"d": "next"}, op=2) == {"r": "next"}


# -- our group --------------------------------------------------------------------------------------------------------


def test_info_and_tensors(board):
    assert model(board, 0) == {
        "proto": 1, "abi": 1, "inputs": 2, "outputs": 2, "steps": STEPS, "page": 16, "hz": 1000000,
        "name": "loopback", "id": bytes([1, 2, 3]) + bytes(29), "arena": [700, 24, 0, 0],
    }  # fmt: skip
    assert model(board, 1, {"io": 0, "i": 0}) == {"name": "image", "dtype": 1, "shape": [1, 10, 10, 7], "scale": 0.5, "zero": -128, "size": 700}
    assert model(board, 1, {"io": 1, "i": 1}) == {"name": "scores", "dtype": 2, "shape": [1, 8], "scale": 0.00390625, "zero": 0, "size": 8}


def test_a_run_in_pieces(board):
    fill(board)
    ticks = model(board, 3, write=True)["ticks"]
    assert ticks > 2**32  # the last step alone takes nearly a turn of the counter
    wanted = expected(IMAGE, BIAS)
    assert model(board, 5, {"i": 1, "off": 2, "len": 5}) == {"off": 2, "data": wanted[1][2:7]}
    piece = model(board, 5, {"i": 0, "off": 0, "len": 700})
    assert piece["data"] == wanted[0][: len(piece["data"])] and 400 < len(piece["data"]) < 504
    assert model(board, 5, {"i": 0, "off": 700, "len": 0}) == {"off": 700, "data": b""}


def test_a_run_in_one_message():
    wanted = expected(IMAGE, BIAS)
    board = LoopbackLink(2048)
    assert model(board, 3, {"data": IMAGE + BIAS}, write=True)["out"] == wanted[0] + wanted[1]
    assert model(board, 3, write=True).keys() == {"ticks"}
    board = LoopbackLink(728)  # the request just fits; the outputs do not beside the answer's other bytes
    assert "out" not in model(board, 3, {"data": IMAGE + BIAS}, write=True)
    board = LoopbackLink(760, small=True)
    assert model(board, 3, {"data": IMAGE + BIAS}, write=True)["out"] == wanted[1]


def test_a_stepwise_run(board):
    fill(board)
    layers = expected(IMAGE, BIAS)[2]
    first = model(board, 4, {"first": 0, "n": 99, "crc": True}, write=True)
    assert first["first"] == 0 and first["steps"] == STEPS and first["crc"] == [zlib.crc32(x) for x in layers[:16]]
    assert model(board, 8, {"step": 15, "off": 3, "len": 4}) == {"off": 3, "data": layers[15][3:7]}
    second = model(board, 4, {"first": 16, "n": 99, "crc": False}, write=True)
    assert second["crc"] == [0] * 4 and len(second["ticks"]) == 4
    assert model(board, 3, write=True)["ticks"] == sum(first["ticks"]) + sum(second["ticks"])
    assert model(board, 8, {"step": 19, "off": 0, "len": 8})["data"] == layers[19]


def test_requests_that_come_twice_do_no_harm(board):
    half = {"i": 0, "off": 0, "data": IMAGE[:300]}
    assert [model(board, 2, half, write=True) for _ in range(2)] == [{"i": 0, "off": 300}] * 2
    later = {"i": 0, "off": 300, "data": IMAGE[300:600]}
    assert [model(board, 2, later, write=True) for _ in range(3)] == [{"i": 0, "off": 600}] * 3
    assert model(board, 2, {"i": 1, "off": 0, "data": BIAS}, write=True) == {"i": 0, "off": 600}  # too early: not written
    model(board, 2, {"i": 0, "off": 600, "data": IMAGE[600:]}, write=True)
    assert [model(board, 2, {"i": 1, "off": 0, "data": BIAS}, write=True) for _ in range(2)] == [{"i": 2, "off": 0}] * 2
    first = {"first": 0, "n": 7, "crc": True}
    assert model(board, 4, first, write=True) == model(board, 4, first, write=True)
    second = {"first": 7, "n": 16, "crc": True}
    assert model(board, 4, second, write=True) == model(board, 4, second, write=True)
    assert model(board, 3, write=True) == model(board, 3, write=True)
    assert model(board, 5, {"i": 1, "off": 0, "len": 8})["data"] == expected(IMAGE, BIAS)[1]


def test_memory_self_test_and_fault(board):
    assert model(board, 6) == {"stack": 4096, "used": 321}
    assert model(board, 7, write=True) == {"failed": 0}
    assert model(board, 9) == {"fault": []}
    board.board.board_crash(0x08000123)
    assert model(board, 9) == {"fault": [0x08000123, 0x08000201, 0x01000000, 0x20001F00, 3, 0x8200, 0xDEADBEE0]}
    assert model(board, 9, write=True) == {"fault": []} == model(board, 9)


REFUSED = [
    ("BAD_REQUEST", 1, {}, False, ""),
    ("BAD_REQUEST", 1, {"io": 2, "i": 0}, False, ""),
    ("BAD_REQUEST", 1, {"io": 0, "i": "0"}, False, ""),
    ("BAD_REQUEST", 2, {"i": 0, "off": 0}, True, ""),
    ("BAD_REQUEST", 2, {"i": 0, "off": -1, "data": b""}, True, ""),
    ("BAD_REQUEST", 2, {"i": 0, "off": 0, "data": "text"}, True, ""),
    ("BAD_REQUEST", 3, {"data": 5}, True, ""),
    ("BAD_REQUEST", 4, {"first": 0}, True, "fill"),
    ("BAD_REQUEST", 4, {"first": 0, "n": 0}, True, "fill"),
    ("BAD_REQUEST", 4, {"first": 0, "n": 1, "crc": 1}, True, "fill"),
    ("BAD_REQUEST", 5, {"i": 0, "off": 0}, False, "run"),
    ("NO_SUCH_TENSOR", 1, {"io": 0, "i": 2}, False, ""),
    ("NO_SUCH_TENSOR", 1, {"io": 1, "i": 2**32 - 1}, False, ""),
    ("NO_SUCH_TENSOR", 2, {"i": 2, "off": 0, "data": b""}, True, ""),
    ("NO_SUCH_TENSOR", 5, {"i": 2, "off": 0, "len": 1}, False, "run"),
    ("NO_SUCH_TENSOR", 5, {}, False, "run"),
    ("NO_SUCH_TENSOR", 8, {"step": STEPS, "off": 0, "len": 1}, False, "run"),
    ("BAD_OFFSET", 2, {"i": 0, "off": 701, "data": b""}, True, ""),
    ("BAD_OFFSET", 2, {"i": 1, "off": 1, "data": bytes(8)}, True, ""),
    ("BAD_OFFSET", 2, {"i": 1, "off": 2**32 - 4, "data": bytes(8)}, True, ""),
    ("BAD_OFFSET", 5, {"i": 1, "off": 0, "len": 9}, False, "run"),
    ("BAD_OFFSET", 5, {"i": 1, "off": 2**32 - 1, "len": 2}, False, "run"),
    ("NOT_READY", 3, {}, True, ""),
    ("NOT_READY", 4, {"first": 0, "n": 1}, True, ""),
    ("NOT_READY", 4, {"first": 0, "n": 1}, True, "run"),
    ("NOT_READY", 4, {"first": 1, "n": 1}, True, "fill"),
    ("NOT_READY", 3, {}, True, "step"),
    ("NO_RESULT", 5, {"i": 0, "off": 0, "len": 1}, False, "fill"),
    ("NO_RESULT", 5, {"i": 0, "off": 0, "len": 1}, False, "step"),
    ("BAD_LENGTH", 3, {"data": bytes(9)}, True, ""),
    ("BAD_STEP", 4, {"first": 2, "n": 1}, True, "step"),
    ("BAD_STEP", 4, {"first": STEPS, "n": 1}, True, "run"),
    ("BAD_STEP", 8, {"step": 2, "off": 0, "len": 1}, False, "step"),
    ("BAD_STEP", 8, {"step": 0, "off": 0, "len": 1}, False, "fill"),
]


@pytest.mark.parametrize(("name", "command", "content", "write", "before"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_requests_that_our_group_refuses(board, name, command, content, write, before):
    if before:
        fill(board)
    if before == "run":
        model(board, 3, write=True)
    if before == "step":
        model(board, 4, {"first": 0, "n": 1}, write=True)
    code = int(messages.ModelError[name])
    assert model(board, command, content, write) == {"err": {"group": 64, "rc": code}}
    assert ask(board, 64, command, content, 2 if write else 0, version=0) == {"rc": 3}  # version 1 knows no groups' codes
    assert code in smp.MODEL_REFUSALS


def test_a_model_for_another_runtime_is_not_touched():
    board = LoopbackLink(512, abi=2)
    for command in range(10):
        answers = [model(board, command, write=write) for write in (False, True)]
        assert {"err": {"group": 64, "rc": 8}} in answers
    assert ask(board, 0, 6)["buf_size"] == 512


def test_numbers_are_the_same_in_c_and_python():
    header = (DEVICE / "embarq_bridge.h").read_text()
    groups = ("EMBARQ_TRAIN_", training_messages.TrainingError, smp.TRAINING_REFUSALS), ("EMBARQ_", messages.ModelError, smp.MODEL_REFUSALS)
    for prefix, errors, sentences in groups:
        c_errors = {name: int(value) for name, value in re.findall(rf"^    {prefix}([A-Z_]+) = (\d+)", header, re.M) if not name.startswith("TRAIN_")}
        assert c_errors == {error.name: int(error) for error in errors}
        assert set(sentences) == set(c_errors.values()) - {0}
    for file, first, numbers in (("bridge_model.c", "MODEL", messages.Command), ("bridge_train.c", "TRAIN", training_messages.TrainingCommand)):
        commands = re.search(rf"enum \{{ {first}_INFO(.*?)\}}", (DEVICE / file).read_text(), re.S)
        assert commands is not None
        names = ["INFO", *re.findall(rf"{first}_(\w+)", commands.group(1))]
        assert names == [command.name for command in sorted(numbers)]
    assert f"EMBARQ_PROTOCOL {messages.PROTOCOL}u" in header
    assert f"EMBARQ_TRAINING_PROTOCOL {training_messages.PROTOCOL}u" in header
