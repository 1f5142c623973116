"""Times per operation as LiteRT's profiler and ExecuTorch's event tracer tell them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdk.runner import etdump, litert_profile
from sdk.runner.engines import open_engine
from sdk.runner.errors import EngineRefused
from tests.data import shared

# ---- ExecuTorch ----

EVENTS = [  # (name, instruction, delegate's identifier or None, ms): two inferences
    [("Convolution (NHWC, F32) IGEMM #1", 0, "Convolution (NHWC, F32) IGEMM #1", 4), ("DELEGATE_CALL", 0, None, 5), ("native_call_add.out", 1, None, 2),
     ("OPERATOR_CALL", 1, None, 3), ("DELEGATE_CALL", 2, None, 7), ("Method::execute", -1, None, 20)],
    [("Convolution (NHWC, F32) IGEMM #1", 0, "Convolution (NHWC, F32) IGEMM #1", 6), ("DELEGATE_CALL", 0, None, 7), ("native_call_add.out", 1, None, 4),
     ("OPERATOR_CALL", 1, None, 5), ("DELEGATE_CALL", 2, None, 9), ("Method::execute", -1, None, 30)],
]  # fmt: skip


def dumped(inferences: list[list[tuple[str, int, str | None, int]]], prefixed: bool) -> bytes:
    """An ETDump by the schema, written with the FlatBuffers library."""
    flatbuffers = pytest.importorskip("flatbuffers")
    b = flatbuffers.Builder(1024)

    def table(fields: int, **slots: Any) -> int:
        b.StartObject(fields)
        for key, (write, value) in slots.items():
            getattr(b, write)(int(key[1:]), value, 0)
        return int(b.EndObject())

    def vector(offsets: list[int]) -> int:
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())

    def event(name: str, instruction: int, delegate: str | None, ms: int) -> int:
        texts = {"f0": ("PrependUOffsetTRelativeSlot", b.CreateString(name))}
        if delegate:
            texts["f4"] = ("PrependUOffsetTRelativeSlot", b.CreateString(delegate))
        numbers = {"f2": ("PrependInt32Slot", instruction), "f6": ("PrependUint64Slot", 1_000), "f7": ("PrependUint64Slot", 1_000 + ms * 1_000_000)}
        profile = table(8, **texts, **numbers)
        return table(3, f0=("PrependUOffsetTRelativeSlot", profile))

    def run(name: str, events: list[Any]) -> int:
        made = vector([event(*e) for e in events])
        return table(4, f0=("PrependUOffsetTRelativeSlot", b.CreateString(name)), f3=("PrependUOffsetTRelativeSlot", made))

    loading = run("Default", [("Program::load_method", -1, None, 100)])
    runs = vector([loading, *(run("Execute", events) for events in inferences)])
    root = table(2, f1=("PrependUOffsetTRelativeSlot", runs))
    finish = b.FinishSizePrefixed if prefixed else b.Finish
    finish(root, b"ED00")
    return bytes(b.Output())


@pytest.mark.parametrize("prefixed", [True, False])
def test_a_trace_is_read_as_it_was_written(prefixed: bool) -> None:
    """Calls that hold others are told only where nothing inside them was; what lasts a whole inference never is."""
    rows = etdump.operation_times(dumped(EVENTS, prefixed), 2)
    assert rows == [
        {"name": "Convolution (NHWC, F32) IGEMM #1", "op": "Convolution (NHWC, F32) IGEMM", "ms": 5.0},
        {"name": "native_call_add.out", "op": "add.out", "ms": 3.0},
        {"name": "DELEGATE_CALL", "op": "DELEGATE_CALL", "ms": 8.0},
    ]
    assert [r["ms"] for r in etdump.operation_times(dumped(EVENTS, prefixed), 1)] == [6.0, 4.0, 9.0], "the last inferences count"


def test_what_is_no_trace_or_a_part_of_one_is_refused() -> None:
    whole = dumped(EVENTS, True)
    for data, sentence in ((b"", "no ETDump"), (b"TFL3" * 9, "no ETDump"), (whole[:40], "cut short"), (whole[: len(whole) // 2], "cut short")):
        with pytest.raises(ValueError, match=sentence):
            etdump.operation_times(data, 1)


@pytest.mark.long
def test_executorch_times_every_operation_of_a_delegate_and_of_its_own(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)

        def forward(self, x: Any) -> Any:
            return torch.cumsum(self.two(torch.relu(self.one(x))), 1)  # cumsum: XNNPACK has none

    program = to_edge_transform_and_lower(torch.export.export(Net().eval(), (torch.zeros(1, 3, 64, 64),)), partitioner=[XnnpackPartitioner()])
    (tmp_path / "net.pte").write_bytes(program.to_executorch().buffer)
    engine = open_engine("executorch", str(tmp_path / "net.pte"), 1)
    rows = engine.profile([np.zeros((1, 3, 64, 64), np.float32)], 5)
    ops = [row["op"] for row in rows]
    assert sum(op.startswith("Convolution") for op in ops) == 2 and "cumsum.out" in ops and not {"DELEGATE_CALL", "OPERATOR_CALL"} & set(ops)
    assert all(row["ms"] > 0 for row in rows if row["op"].startswith("Convolution"))


# ---- LiteRT ----


def test_means_are_taken_by_place_and_names_numbered() -> None:
    once = [(litert_profile.INFERENCE, 1, 9), (b"Invoke", 1, 8), (b"Conv", 8, 2000), (b"Conv", 8, 10), (b"SOFTMAX", 2, 1), (b"Invoke", 32, 1 << 32)]
    again = [(tag, kind, 3 * us) for tag, kind, us in once]
    assert litert_profile.means([*once, *again]) == [
        {"name": "Conv #1", "op": "Conv", "ms": 4.0}, {"name": "Conv #2", "op": "Conv", "ms": 0.02}, {"name": "SOFTMAX #1", "op": "SOFTMAX", "ms": 0.002},
    ]  # fmt: skip
    assert litert_profile.means([]) == []


def test_litert_times_every_operation_of_a_net() -> None:
    pytest.importorskip("ai_edge_litert")
    path = str(shared("mlperf_tiny/models/vww01_mbv1_025_int8.tflite"))
    engine = open_engine("litert", path, 1)
    if engine.version not in litert_profile.VERSIONS:
        pytest.skip(f"times are read of ai-edge-litert {' or '.join(litert_profile.VERSIONS)}, and {engine.version} is installed")
    arrays = [np.random.default_rng(0).integers(-128, 127, shape, np.int8) for _, shape, _ in engine.inputs]
    before = engine.run(arrays)[0].tobytes()
    rows = engine.profile(arrays, 3)
    ops = [row["op"] for row in rows]
    layers = sum(op.startswith(("Convolution", "Fully Connected")) for op in ops)
    assert layers == 28 and ops[-1] == "SOFTMAX", "27 convolutions, those of 1x1 told as fully connected, and a dense layer"
    assert len({row["name"] for row in rows}) == len(rows) and sum(row["ms"] for row in rows) > 0
    assert engine.run(arrays)[0].tobytes() == before, "profiling leaves the engine as it was"


def test_a_litert_that_cannot_tell_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    path = str(shared("mlperf_tiny/models/kws01_dscnn_int8.tflite"))
    plain = open_engine("litert", path, 1, {"kernels": "reference"})
    assert plain.profile([], 1) is None and "default kernels, no other" in plain.why_no_profile
    engine = open_engine("litert", path, 1)
    monkeypatch.setattr(engine, "version", "1.0.0")
    assert engine.profile([], 1) is None, "structures of another version must not be guessed"
    monkeypatch.setattr(litert_profile, "find_spec", lambda name: None)
    with pytest.raises(EngineRefused, match="holds no libLiteRt"):
        litert_profile.operation_times(path, 1, [], 1)


def test_a_failing_call_names_itself(tmp_path) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "no.tflite").write_bytes(b"no model")
    with pytest.raises(EngineRefused, match=r"LiteRT's CreateModelFromFile failed with status \d+"):
        litert_profile.operation_times(str(tmp_path / "no.tflite"), 1, [], 1)
