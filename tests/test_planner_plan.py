"""Plans as a user gets them: figures that add up, mends that keep their word, reports that can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sdk.errors import UnsupportedOp, UsageError
from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.arrange import arrange, reordered
from sdk.planner.assess import runtime_parts
from sdk.planner.flash import struct_bytes, weight_bytes
from sdk.planner.latency import node_macs
from sdk.planner.measured import EXCEPTION_FRAME, Footprint, footprint
from sdk.planner.patches import best_patches
from sdk.planner.placement import Region
from sdk.planner.plan import Plan, budget, make_plan, plan_from_dict
from sdk.planner.problem import NoAsks
from sdk.planner.report import bar, clip, seconds
from sdk.planner.structs import parse_structs, struct_sizes
from sdk.planner.variants import as_int8, at_resolution
from targets.device import Device, load_device
from tests.data import shared
from tests.planner_graphs import make_graph
from tests.small_models import float_cnn
from tests.small_models import int8_cnn as quantised_cnn


@cache
def int8_cnn(seed: int = 0, size: int = 12, channels: int = 8) -> Graph:
    """conv, depthwise, 1x1, residual add, pools, reshape, dense, softmax in int8: planned here, never run."""
    graph = as_int8(float_cnn(seed, size, channels))
    assert graph is not None
    return graph


def small_board(folder: Path, ram_bytes: int, flash_bytes: int = 0x10_0000) -> Device:
    """A board like stm32f405 with one RAM of `ram_bytes` left for tensors."""
    given = budget(load_device("stm32f405"))
    runtime = sum(m.used_bytes for m in given.memories if m.region == 0)
    text = f"""
name = "small"
kind = "mcu"
family = "stm32f4"
backends = ["firmware"]
stack_bytes = {load_device("stm32f405").stack_bytes}
[[cores]]
name = "cortex-m4"
arch = "armv7e-m"
isa = ["dsp", "fpu-sp"]
clock_hz = 100_000_000
[[memories]]
name = "flash"
kind = "flash"
start = 0x0800_0000
size_bytes = {flash_bytes}
roles = ["code"]
[[memories]]
name = "ram"
kind = "ram"
start = 0x2000_0000
size_bytes = {runtime + ram_bytes}
roles = ["data", "stack", "arena"]
"""
    path = folder / "small.toml"
    path.write_text(text)
    return load_device(path)


def test_the_plan_adds_up():
    plan = make_plan("stm32f405", int8_cnn())
    assert plan.fits and not plan.shortfall and not plan.mends
    assert [s.node for s in plan.steps] == [n.name for n in plan.graph.nodes if n.op != "reshape"]
    assert all(s.call is not None and s.call.function == s.function for s in plan.steps)
    assert set(plan.placements) == {t.name for t in plan.graph.activations()}
    ends = [p.offset + p.size_bytes for p in (*plan.placements.values(), *plan.scratches.values())]
    assert max(ends) == plan.arena_bytes[0] >= plan.lower_bound_bytes
    assert all(plan.scratch(s.node).size_bytes == s.scratch_bytes for s in plan.steps if s.scratch_bytes)
    flash = next(m for m in plan.memories if m.kind == "flash")
    assert flash.used_bytes == plan.flash_bytes == sum(size for _, size in plan.flash.parts())
    main = next(m for m in plan.memories if m.region == 0)
    assert main.part("arena") == plan.arena_bytes[0] and main.part("stack") == plan.stack_reserved_bytes >= plan.stack_bytes


def test_a_reshape_is_its_inputs_bytes():
    plan = make_plan("stm32f405", int8_cnn())
    node = next(n for n in plan.graph.nodes if n.op == "reshape")
    a, b = plan.placements[node.inputs[0]], plan.placements[node.outputs[0]]
    assert (a.region, a.offset, a.size_bytes) == (b.region, b.offset, b.size_bytes)
    assert {a.alias_of, b.alias_of} == {"", a.tensor}


def test_wishes_cost_what_they_cost():
    graph = int8_cnn()
    best = sum(make_plan("stm32f405", graph).arena_bytes)
    apart = make_plan("stm32f405", graph, in_place=False)
    kept = make_plan("stm32f405", graph, keep_input=True)
    assert sum(apart.arena_bytes) > best and sum(kept.arena_bytes) > best
    assert kept.placements[graph.inputs[0]].last_step == len(kept.steps) - 1
    assert sum(make_plan("stm32f405", graph, alignment=16).arena_bytes) >= best
    assert make_plan("stm32f405", graph, decisions=["first"]).decisions[0] == "first"


def test_wrong_wishes_get_one_sentence():
    with pytest.raises(UsageError, match="order 'fast' is not known; choose one of best, given"):
        make_plan("stm32f405", int8_cnn(), order="fast")
    with pytest.raises(UsageError, match="alignment 3 is not possible"):
        make_plan("stm32f405", int8_cnn(), alignment=3)


def test_an_op_without_a_kernel_is_refused_by_name_on_a_board_and_planned_on_a_computer():
    tensors = {n: Tensor(n, (1, 8), "float32") for n in "xyz"}
    nodes = (Node("odd", "opaque", ("x",), ("y",), {"kind": "aten.fft"}), Node("odder", "opaque", ("y",), ("z",), {"kind": "aten.fft"}))
    graph = Graph("g", ("x",), ("z",), tensors, nodes)
    with pytest.raises(UnsupportedOp, match=r"odd .*aten\.fft.*\(1 more nodes"):
        make_plan("stm32f405", graph)
    plan = make_plan("rpi-4b", graph)
    assert plan.fits and plan.arena_bytes == (64,) and plan.steps[0].op == "aten.fft" and plan.steps[0].call is None


def test_a_plan_goes_through_json_and_back():
    plan = make_plan("stm32f405", int8_cnn(), decisions=["kept"])
    data = json.loads(json.dumps(plan.to_dict()))
    again = plan_from_dict(data, plan.device)
    assert again.to_dict() == plan.to_dict()
    assert str(again) == str(plan) and again.to_html() == plan.to_html()


def test_the_same_wish_gives_the_same_plan():
    one, two = make_plan("stm32h743", int8_cnn()), make_plan("stm32h743", int8_cnn())
    assert one.to_dict() == two.to_dict() and one.to_html() == two.to_html()


# ---- too large: exact bytes and mends that keep their word ---------------------------------------------------------------


def arena_of(graph: Graph, **wishes) -> int:
    return sum(make_plan("stm32f405", graph, **wishes).arena_bytes)


def test_one_byte_decides(tmp_path):
    graph = int8_cnn()
    need = arena_of(graph)
    room = -(-need // 16) * 16
    assert make_plan(small_board(tmp_path, room), graph).fits
    plan = make_plan(small_board(tmp_path, need - 1), graph, mends=False)
    assert [(s.memory, s.over_bytes) for s in plan.shortfall] == [("ram", 1)]
    assert "1 bytes too small" in str(plan.shortfall[0]) and str(plan).splitlines()[0].startswith("small_cnn on small: does NOT fit")


def test_wishes_given_up_fit_as_promised(tmp_path):
    graph = int8_cnn()
    board = small_board(tmp_path, arena_of(graph) + 12)
    plan = make_plan(board, graph, keep_input=True, in_place=False)
    both = plan.mends[0]
    assert both.fits and both.options == {"keep_input": False, "in_place": True}
    kept = make_plan(board, graph, **both.options)
    assert kept.fits and kept.ram_bytes == both.ram_bytes
    assert f"{sum(kept.arena_bytes):,} bytes of arena" in both.text


def test_boards_and_resolutions_named_in_mends_do_fit(tmp_path):
    graph = int8_cnn(0, 48, 16)
    plan = make_plan(small_board(tmp_path, arena_of(graph) // 2), graph)
    board = next(m for m in plan.mends if "device" in m.options)
    assert board.fits and make_plan(board.options["device"], graph, mends=False).fits
    smaller = next((m for m in plan.mends if m.text.startswith("train it for")), None)
    assert smaller is not None and smaller.fits
    height, width = map(int, smaller.text.split(" for ")[1].split(" ")[0].split("x"))
    shrunk = at_resolution(graph, height, width)
    assert shrunk is not None and make_plan(plan.device, shrunk).ram_bytes == smaller.ram_bytes
    assert [m.fits for m in plan.mends] == sorted((m.fits for m in plan.mends), reverse=True)


def test_too_little_flash_is_told_apart_from_ram(tmp_path):
    plan = make_plan(small_board(tmp_path, 1 << 16, 0x2000), int8_cnn())
    assert [s.memory for s in plan.shortfall] == ["flash"]
    assert plan.shortfall[0].over_bytes == plan.flash_bytes - 0x2000
    assert not any("patches" in m.text or "train it for" in m.text for m in plan.mends)


def test_int8_in_place_of_float_is_measured():
    small = as_int8(float_cnn())
    real = quantised_cnn()
    assert small is not None and as_int8(real) is None
    assert sorted(t.size_bytes for t in small.activations()) == sorted(t.size_bytes for t in real.activations())
    assert sum(t.size_bytes for t in small.constants()) == sum(t.size_bytes for t in real.constants())


def test_a_resolution_the_graph_fixes_is_no_mend():
    graph = make_graph({"x": 64, "y": 64}, [("reshape", ("x",), ("y",))], ("x",), ("y",))
    assert at_resolution(graph, 4, 4) is None


def convs(count: int, size: int, channels: int) -> Graph:
    """A chain of 3x3 convolutions at one size, then one with stride `size // 2`."""
    tensors = {"t0": Tensor("t0", (1, size, size, 1), "int8")}
    nodes = []
    for i in range(count):
        stride, before = (2, 1) if i == count - 1 else (1, 1)
        side, cin = size // stride, tensors[f"t{i}"].shape[3]
        tensors[f"w{i}"] = Tensor(f"w{i}", (channels, 3, 3, cin), "int8", data=np.zeros((channels, 3, 3, cin), np.int8))
        tensors[f"t{i + 1}"] = Tensor(f"t{i + 1}", (1, side, side, channels), "int8")
        attrs = {"stride": (stride, stride), "dilation": (1, 1), "padding": ((before, 1), (before, 1)), "groups": 1}
        nodes.append(Node(f"n{i}", "conv2d", (f"t{i}", f"w{i}"), (f"t{i + 1}",), attrs))
    tensors["out"] = Tensor("out", (1, 1), "int8")
    nodes.append(Node("end", "opaque", (f"t{count}",), ("out",), {"kind": "head"}))
    return Graph("convs", ("t0",), ("out",), tensors, tuple(nodes))


def test_patches_are_counted_by_hand():
    """16x16x1 -> 16x16x8 -> 8x8x8. In 2x2 tiles a 4x4x8 tile of the last reads 9 rows of the middle (8 and one of halo), and
    those 10 rows of the input: 256 input + 512 output + 9x9x8 tile = 1,416 bytes instead of 2,048 + 512."""
    graph = convs(2, 16, 8)
    calls = {n.name: NoAsks() for n in graph.nodes}
    arrangement = arrange(graph, calls, [Region("r", 1 << 16)])
    assert arrangement.layout.arena_bytes == (2560,)
    found = best_patches(arrangement, 1500)
    assert found is not None and (found.layers, found.grid, found.output) == (2, 2, "t2")
    assert found.arena_bytes == 1416
    tiles = (8 + 9) ** 2  # rows 0..7 and 7..15 of the middle tensor: the second half's halo is one row
    assert found.extra_macs == (tiles - 256) * 8 * 9


def test_patches_need_a_start_that_only_looks_at_neighbourhoods():
    graph = make_graph({"x": 64, "y": 64, "z": 8}, [("a", ("x",), ("y",)), ("b", ("y",), ("z",))], ("x",), ("z",))
    arrangement = arrange(graph, {"a": NoAsks(), "b": NoAsks()}, [Region("r", 1 << 16)])
    assert best_patches(arrangement, 0) is None


# ---- what it is made of ------------------------------------------------------------------------------------------------


def test_reordering_takes_reshapes_along():
    rows = [("a", ("x",), ("p",)), ("reshape", ("p",), ("q",)), ("b", ("x",), ("r",)), ("c", ("q", "r"), ("z",))]
    graph = make_graph(dict.fromkeys("xpqrz", 8), rows, ("x",), ("z",))
    assert [n.name for n in reordered(graph, ["b", "a", "c"]).nodes] == ["b", "a", "reshape", "c"]


def test_struct_sizes_follow_the_arm_abi():
    text = """
    typedef struct { uint8_t a; int32_t b; } padded;      /* 8 */
    #define N 3u
    typedef struct { padded p[N]; const int8_t *q, *r; int16_t s; } nested; // 24 + 8 + 2, rounded to 36
    """
    assert parse_structs(text) == {"padded": (8, 4), "nested": (36, 4)}
    sizes = struct_sizes()
    assert (sizes["embarq_step"], sizes["embarq_tensor"], sizes["embarq_model"], sizes["embarq_memory"]) == (16, 48, 48, 16)


def test_every_kernels_struct_is_declared():
    plan = make_plan("stm32f405", int8_cnn())
    for step in plan.steps:
        assert step.call.struct in struct_sizes()
        assert struct_bytes(step.call) == struct_sizes()[step.call.struct]


def test_equal_constants_are_stored_once():
    a = np.arange(10, dtype=np.int8)
    assert weight_bytes([a, a.copy(), np.arange(3, dtype=np.int32)]) == 12 + 12
    assert weight_bytes([np.zeros(4, np.int8), np.zeros(4, np.uint8)]) == 8


def test_measured_functions_share_what_they_need():
    entry = {"rodata": 8, "data": 0, "bss": 0}
    table = {
        "zig": {
            "bases": {"stm32f405": {"text": 1000, "rodata": 100, "data": 4, "bss": 50, "stack": 200, "callback_stack": 30}},
            "cortex-m4:armv7e-m+dsp+fpu-sp": {
                "f": {**entry, "text": 4, "needs": {"f": 100, "helper": 40}, "stack": 64},
                "g": {**entry, "text": 0, "needs": {"g": 60, "helper": 40}, "stack": 96},
            }
        }
    }
    device = load_device("stm32f405")
    found = footprint(device, "zig", ["f", "g", "f"], table)
    assert (found.text, found.rodata, found.data, found.bss) == (1000 + 4 + 100 + 60 + 40, 116, 4, 50)
    assert found.stack == 200 + 30 + 96 + EXCEPTION_FRAME and found.estimated == ()
    assert footprint(device, "gcc", ["f"], table).estimated == ("base", "f")
    assert footprint(device, "zig", ["f", "new"], table).estimated == ("new",)


def test_the_main_ram_holds_stack_and_data_up_to_the_arenas_alignment():
    device = load_device("stm32f405")
    parts = runtime_parts(device, device.main_ram, Footprint(0, 0, data=6, bss=781, stack=900))
    assert parts == (("stack", 4096), ("data", 8 + 784 + 8))  # 4,888 is not a multiple of 16, the arena starts at 4,896
    deep = runtime_parts(device, device.main_ram, Footprint(0, 0, data=0, bss=0, stack=5001))
    assert deep == (("stack", 5008), ("data", 0))
    assert runtime_parts(device, device.arena_regions()[1], Footprint(0, 0, 6, 781, 900)) == ()


def test_multiply_accumulates_are_counted():
    macs = {n.op: node_macs(int8_cnn(), n) for n in int8_cnn().nodes}
    assert macs["depthwise_conv2d"] == 12 * 12 * 8 * 9 and macs["dense"] == 8 * 10 and macs["max_pool2d"] == 0


# ---- reports -----------------------------------------------------------------------------------------------------------


def check_text(text: str) -> None:
    assert all(len(line) <= 100 for line in text.splitlines()), max(text.splitlines(), key=len)
    assert "\x1b" not in text and "\t" not in text


def test_the_report_is_narrow_and_begins_with_the_verdict(tmp_path):
    plan = make_plan("stm32f405", int8_cnn())
    text = str(plan)
    check_text(text)
    assert text.startswith(f"small_cnn on stm32f405: fits, {plan.arena_bytes[0]:,} bytes of arena")
    for what in ("Memory", "over time", "What sets the peak", "Stack: at most", "Decisions"):
        assert what in text
    refused = make_plan(small_board(tmp_path, 400), int8_cnn())
    check_text(str(refused))
    assert "What would make it fit" in str(refused) and f"{refused.shortfall[0].over_bytes:,} bytes too small" in str(refused)


def test_the_map_shows_every_step_and_region():
    graph = int8_cnn()
    plan = make_plan("stm32f405", graph)
    rows = [line for line in str(plan).splitlines() if line.endswith("▏") and "%" not in line]
    cells = {line[12:-1] for line in rows}
    assert all(len(row) % len(plan.steps) == 0 for row in cells)
    wide = len(next(iter(cells))) // len(plan.steps)
    for n in range(len(plan.steps)):  # something is alive at every step
        assert any(row[n * wide] != " " for row in cells)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(key in ("src", "href") for key, _ in attrs), "the page must need nothing else"


def test_the_page_stands_alone_and_escapes_names(tmp_path):
    graph = int8_cnn()
    evil = "<script>alert(1)</script>"
    renamed = make_graph({"x": 8, evil: 8}, [("n", ("x",), (evil,))], ("x",), (evil,))
    for plan in (make_plan("stm32f405", graph), make_plan(small_board(tmp_path, 400), graph), make_plan("rpi-4b", renamed)):
        page = _Page()
        page.feed(plan.to_html())
        assert "svg" in page.tags and "script" not in page.tags
        assert page.tags.count("rect") == len({p.tensor for p in plan.placements.values() if not p.alias_of}) + len(plan.scratches)


@pytest.mark.parametrize("name", ["stm32f405", "stm32h743", "rp2040", "rpi-4b"])
def test_a_budget_says_what_there_is_to_spend(name):
    found = budget(load_device(name))
    check_text(str(found))
    assert str(found).startswith(name) and f"{found.arena_bytes:,} bytes of RAM for tensors" in str(found).replace("\n    ", " ")
    assert json.loads(json.dumps(found.to_dict()))["arena_bytes"] == found.arena_bytes > 0
    assert found.arena_bytes <= sum(m.size_bytes for m in load_device(name).memories)


def test_a_plan_spends_what_the_budget_offers():
    device, graph = load_device("stm32f405"), int8_cnn()
    before, plan = budget(device), make_plan(device, graph)
    assert plan.memories[1].free_bytes <= before.memories[1].free_bytes - plan.arena_bytes[0]


def test_small_formats():
    assert (seconds(2), seconds(0.0123), seconds(4e-6)) == ("2 s", "12.3 ms", "4 us")
    assert clip("abcdefghij", 5) == "ab…ij" and clip("abc", 5) == "abc"
    assert bar(0, 100, 4) == "▕    ▏  0.0 %" and bar(150, 100, 4) == "▕████▏150.0 % !" and bar(50, 100, 4).startswith("▕██  ▏")


# ---- real models -------------------------------------------------------------------------------------------------------

#: Bytes the arena may take at most, scratch included.
ARENAS = {"ic01_resnet8_int8": 49_152, "kws01_dscnn_int8": 16_000, "vww01_mbv1_025_int8": 55_296, "ad01_autoencoder_int8": 768}


@pytest.mark.parametrize("device", ["stm32l4r5", "stm32f746", "nrf52840", "rp2040"])
@pytest.mark.parametrize("model", ARENAS)
def test_reference_arenas_are_met_near_the_lower_bound(model, device):
    from sdk.graph.from_tflite import from_tflite

    plan: Plan = make_plan(device, from_tflite(shared(f"mlperf_tiny/models/{model}.tflite")), mends=False)
    assert sum(plan.arena_bytes) <= ARENAS[model]
    assert plan.lower_bound_bytes <= sum(plan.arena_bytes) <= 1.02 * plan.lower_bound_bytes
    check_text(str(plan))


def test_overlap_takes_a_quarter_off_the_reference():
    from sdk.graph.from_tflite import from_tflite

    graph = from_tflite(shared("mlperf_tiny/models/ic01_resnet8_int8.tflite"))
    apart = make_plan("stm32l4r5", graph, in_place=False)
    assert sum(make_plan("stm32l4r5", graph).arena_bytes) < 0.75 * sum(apart.arena_bytes)
    assert replace(apart, name="other").name == "other"
