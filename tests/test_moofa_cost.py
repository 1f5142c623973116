"""What subnets cost on a device: the parts' sums against the plan of the whole, and both against the plan of a real torch net."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest

from sdk.errors import DoesNotFit, UsageError
from sdk.graph.interpreter import run
from sdk.graph.verify import verify
from sdk.planner.plan import make_plan
from sdk.planner.training.spec import Training
from sdk.prepare.moofa.cost import Costs, Pieces, SubnetCost
from sdk.prepare.moofa.graphs import block_graph, parts, subnet_graph
from sdk.prepare.moofa.ladders import LADDERS, MOOFA, OFA, SMALL_DEVICE, SMALL_FLASH_BYTES, SMALL_MOOFA, SMALL_OFA, SMALL_RAM_BYTES
from sdk.prepare.moofa.space import Subnet, blocks, largest, sample, smallest
from sdk.prepare.moofa.training_cost import step_plan
from sdk.prepare.moofa.widths import _widest, widths
from targets.device import device_names, load_device

SMALL = (SMALL_OFA, SMALL_MOOFA)


@cache
def costs(device: str, name: str, channels_last: bool = False) -> Costs:
    """One for all tests: blocks are planned once."""
    return Costs(device, LADDERS[name], 10, channels_last)


def planned(plan) -> tuple[int, ...]:
    """A plan's figures in the order of `figures`."""
    return sum(plan.arena_bytes), plan.flash_bytes, plan.macs, plan.cost.cycles


def figures(cost: SubnetCost) -> tuple[int, ...]:
    return cost.arena_bytes, cost.flash_bytes, cost.macs, cost.cycles


# ---- graphs --------------------------------------------------------------------------------------------------------


def test_a_subnets_graph_is_right_and_can_be_run():
    subnet = smallest(SMALL_MOOFA)
    graph = subnet_graph(SMALL_MOOFA, subnet, 10)
    verify(graph)
    picture = np.random.default_rng(0).integers(-128, 128, (1, 3, 24, 24), dtype=np.int8)
    logits = run(graph, {"x": picture})["output"]
    assert logits.shape == (1, 10) and logits.dtype == np.int8 and len(np.unique(logits)) > 1
    assert verify(subnet_graph(SMALL_MOOFA, subnet, 10, channels_last=True)) is None


def test_a_block_alone_is_what_it_is_in_the_net():
    block = blocks(SMALL_OFA, largest(SMALL_OFA))[3]
    graph = block_graph(block)
    assert [node.op for node in graph.nodes] == ["conv2d", "depthwise_conv2d", "conv2d", "add"]
    assert graph[graph.outputs[0]].shape == (1, block.side_after, block.side_after, block.outputs)


def test_a_subnet_of_another_ladder_is_refused():
    with pytest.raises(UsageError, match="a subnet of small-moofa has 12 kernels"):
        subnet_graph(SMALL_MOOFA, smallest(MOOFA), 10)


# ---- the parts against the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "ladder", "seed"), [("stm32f746", SMALL_OFA, 1), ("stm32f405", SMALL_MOOFA, 2), ("rp2040", SMALL_MOOFA, 9)],
                         ids=lambda v: getattr(v, "name", str(v)))  # fmt: skip
def test_parts_cost_what_the_whole_net_costs(device, ladder, seed):
    one = costs(device, ladder.name)
    subnet = sample(ladder, Random(seed))
    assert figures(one(subnet)) == planned(one.plan(subnet))


def test_blocks_that_share_bytes_across_their_border_are_planned_together():
    """With few channels between two blocks, neither block's own arena lets the other put them aside: one subnet of 400 drawn at random."""
    narrow = replace(SMALL_MOOFA, first=4, stages=(16, 64, 72, 72), final=432)
    subnet = sample(narrow, Random(364))
    one = Costs("stm32f746", narrow, 10)
    apart = max(one.planned.of([part]).arena_bytes for part in parts(narrow, subnet, 10))
    assert apart < one(subnet).arena_bytes == sum(one.plan(subnet).arena_bytes)


def test_a_chain_that_one_order_of_placement_finds():
    """Buffers backwards in time, each step's scratch behind its tensors: every other order misses the bound by 3,584 bytes."""
    subnet = Subnet((5, 5, 7, 5, 5, 5, 7, 5, 5, 5, 7, 5), (2, 3, 2, 2, 2, 3, 4, 4, 3, 4, 4, 2), (1, 3, 2, 3), 32)
    one = costs("stm32f746", SMALL_OFA.name)
    assert one(subnet).arena_bytes == sum(one.plan(subnet).arena_bytes) == 18_296


def test_each_block_is_planned_once_wherever_it_stands():
    pieces = Pieces("stm32f746")
    second, third = (block for block in blocks(SMALL_OFA, largest(SMALL_OFA)) if block.stage == 4 and block.slot > 9)
    assert pieces.of([second]) is pieces.of([third]) and len(pieces) == 1
    assert pieces.of([replace(second, kernel=3)]).macs < pieces.of([second]).macs and len(pieces) == 2


def test_a_picture_as_a_camera_gives_it_needs_no_transpose():
    nchw, nhwc = (Costs("stm32f746", SMALL_MOOFA, 10, channels_last=last) for last in (False, True))
    subnet = smallest(SMALL_MOOFA)
    assert nhwc(subnet).arena_bytes <= nchw(subnet).arena_bytes
    assert nhwc(subnet).flash_bytes < nchw(subnet).flash_bytes
    assert nhwc(subnet).macs == nchw(subnet).macs


def test_a_computers_memory_is_not_planned():
    with pytest.raises(UsageError, match="is a computer"):
        Costs("raspberry-pi-5", SMALL_OFA, 10)


@pytest.mark.long
@pytest.mark.parametrize("device", ["stm32f746", "nrf52840"])
@pytest.mark.parametrize("ladder", SMALL, ids=lambda ladder: ladder.name)
def test_parts_cost_what_whole_nets_cost(device, ladder):
    """To the byte, except where the placement of the whole net misses its lower bound: that bound is then what the parts tell."""
    one, random = costs(device, ladder.name), Random(3)
    missed = 0
    for subnet in (sample(ladder, random) for _ in range(40)):
        cost, plan = one(subnet), one.plan(subnet)
        arena = sum(plan.arena_bytes)
        assert figures(replace(cost, arena_bytes=arena)) == planned(plan)
        assert cost.arena_bytes == arena or cost.arena_bytes == plan.lower_bound_bytes
        missed += cost.arena_bytes != arena
    assert missed <= 2


@pytest.mark.long
@pytest.mark.parametrize("device", [name for name in device_names() if load_device(name).kind == "mcu"])
def test_parts_cost_what_the_whole_net_costs_on_every_board(device):
    one, subnet = Costs(device, SMALL_MOOFA, 10, channels_last=True), sample(SMALL_MOOFA, Random(12))
    assert figures(one(subnet)) == planned(one.plan(subnet))


@pytest.mark.long
def test_a_thousand_subnets_are_a_few_hundred_plans():
    """Two blocks a stage, nine shapes of each, three sizes of the picture; stems, first blocks and heads; and what has to be planned together."""
    one, random = Costs("stm32f746", SMALL_MOOFA, 10), Random(0)
    for _ in range(1000):
        one(sample(SMALL_MOOFA, random))
    assert len(one.planned) <= 2 * 4 * 9 * 3 + 3 * 3 + 60


# ---- learning on the device -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["sgd", "momentum"])
def test_the_arena_of_a_training_step(optimiser):
    """Exact where frozen layers run whole; the plan, which may run them in stripes, needs no more."""
    one = Costs("stm32f746", SMALL_MOOFA, 10, training=Training(optimiser=optimiser))
    subnet = sample(SMALL_MOOFA, Random(1))
    whole = step_plan(one.device, subnet_graph(SMALL_MOOFA, subnet, 10), Training(optimiser=optimiser))
    assert one(subnet).training_bytes == sum(whole.arena_bytes) > one(subnet).arena_bytes
    assert sum(one.training_plan(subnet).arena_bytes) <= one(subnet).training_bytes


def test_training_that_was_not_asked_for_and_layers_that_cannot_learn():
    with pytest.raises(UsageError, match="a training step is planned for a wish"):
        costs("stm32f746", SMALL_MOOFA.name).training_plan(smallest(SMALL_MOOFA))
    with pytest.raises(UsageError, match="training layers 'last4' of a subnet cannot learn on a microcontroller"):
        Costs("stm32f746", SMALL_MOOFA, 10, training=Training(layers="last4"))


# ---- against a real net --------------------------------------------------------------------------------------------


def real_plan(ladder, subnet: Subnet, seed: int, channels_last: bool):
    """The plan of the torch subnet: extracted, batch norms estimated, loaded, quantised on the same pictures."""
    torch = pytest.importorskip("torch")
    import sdk
    from sdk.prepare.moofa.nn.elastic import Supernet
    from sdk.prepare.moofa.nn.norm import reestimate

    torch.set_num_threads(1)
    pictures = np.random.default_rng(seed).random((16, 3, subnet.resolution, subnet.resolution), np.float32)
    net = reestimate(Supernet(ladder, 10, seed).extract(subnet), [torch.from_numpy(pictures)])
    model = sdk.load(net, torch.from_numpy(pictures[:1]), input_layout="nhwc" if channels_last else None)
    return sdk.plan("stm32f746", model, calibration=pictures.transpose(0, 2, 3, 1) if channels_last else pictures)


def same_as_real(ladder, subnet: Subnet, seed: int, channels_last: bool) -> None:
    plan, cost = real_plan(ladder, subnet, seed, channels_last), costs("stm32f746", ladder.name, channels_last)(subnet)
    made = make_plan("stm32f746", subnet_graph(ladder, subnet, 10, channels_last), mends=False)
    assert planned(made) == figures(cost)
    functions = [s.function for s in plan.steps]
    # an addition whose trained scales make ties takes a kernel of its own, which no one knows before training: more code, the same arena and work
    assert [(s.op, s.shape, s.function.replace("_exact", "")) for s in plan.steps] == [(s.op, s.shape, s.function) for s in made.steps]
    if "embarq_add_exact_s8_dsp" in functions:
        assert (planned(plan)[0], planned(plan)[2]) == (cost.arena_bytes, cost.macs) and 0 < plan.flash_bytes - cost.flash_bytes < 2048
    else:
        assert planned(plan) == figures(cost)


def test_a_loaded_subnet_needs_what_was_told():
    same_as_real(SMALL_MOOFA, Subnet((3, 5, 7) * 4, (2, 3, 4) * 4, (1, 2, 1, 1), 24), 0, channels_last=True)


@pytest.mark.long
@pytest.mark.parametrize("ladder", SMALL, ids=lambda ladder: ladder.name)
def test_ten_loaded_subnets_need_what_was_told(ladder):
    random = Random(7)
    for seed in range(10):
        same_as_real(ladder, sample(ladder, random), seed, channels_last=seed % 2 == 1)


# ---- widths --------------------------------------------------------------------------------------------------------


def test_the_rule_gives_the_shipped_ladder():
    solved = widths(SMALL_DEVICE, 32, like=SMALL_OFA, ram_bytes=SMALL_RAM_BYTES, flash_bytes=SMALL_FLASH_BYTES, name=SMALL_MOOFA.name)
    assert solved == SMALL_MOOFA


def test_the_shipped_ladder_keeps_its_limits_and_wider_ones_do_not():
    cost = costs(SMALL_DEVICE, SMALL_MOOFA.name)(largest(SMALL_MOOFA))
    assert cost.arena_bytes <= SMALL_RAM_BYTES and cost.flash_bytes <= SMALL_FLASH_BYTES
    wider = [replace(SMALL_MOOFA, first=16), replace(SMALL_MOOFA, stages=(24, 64, 64, 64))]
    assert all(Costs(SMALL_DEVICE, ladder, 10)(largest(ladder)).arena_bytes > SMALL_RAM_BYTES for ladder in wider)
    tail = replace(SMALL_MOOFA, stages=(16, 72, 72, 72), final=432)
    assert Costs(SMALL_DEVICE, tail, 10)(largest(tail)).flash_bytes > SMALL_FLASH_BYTES


def test_more_memory_gives_wider_ladders():
    small = replace(SMALL_OFA, depths=(1, 2), strides=(2, 2, 2, 2, 2))
    found = [widths("stm32f746", 32, like=small, ram_bytes=ram, flash_bytes=96 * 1024) for ram in (6 * 1024, 12 * 1024)]
    assert found[0].first <= found[1].first and found[0].stages[0] <= found[1].stages[0] and found[0] != found[1]
    assert found[0].resolutions == (24, 28, 32) and found[0].final == 6 * found[0].stages[-1]


@pytest.mark.long
@pytest.mark.parametrize("ram_bytes", [20 * 1024, 32 * 1024])
def test_solved_widths_use_the_memory_they_reserve(ram_bytes):
    """Mean over peak of the parts' arenas, where flash does not bound the tail: more than 1.4 times that of the halved once-for-all widths."""
    ladder = widths("stm32f746", 32, like=SMALL_OFA, ram_bytes=ram_bytes, flash_bytes=2**30)
    solved, given = (np.array(Costs("stm32f746", one, 10).arenas(largest(one))) for one in (ladder, SMALL_OFA))
    assert solved.max() <= ram_bytes
    assert solved.mean() / solved.max() > 1.4 * given.mean() / given.max()


def test_no_room_is_said_with_the_bytes():
    with pytest.raises(DoesNotFit, match=r"equal-memory for 32 pixels needs [\d,]+ bytes of arena even when narrowest and 4,096 were given"):
        widths("stm32f746", 32, like=SMALL_OFA, ram_bytes=4096)
    with pytest.raises(DoesNotFit, match=r"needs [\d,]+ bytes of flash and 16,384 were given"):
        widths("stm32f746", 32, like=SMALL_OFA, ram_bytes=32 * 1024, flash_bytes=16 * 1024)


def test_a_reference_block_that_the_ladder_does_not_have():
    with pytest.raises(UsageError, match=r"small-ofa has no expansion 6 with kernel 7; choose e_ref from \(2, 3, 4\)"):
        widths("stm32f746", 32, 6, like=SMALL_OFA)


@pytest.mark.parametrize("limit", [-1, 0, 1, 5, 8, 31, 100])
def test_the_widest_that_fits(limit):
    asked: list[int] = []

    def fits(value: int) -> bool:
        asked.append(value)
        return value <= limit

    expected = min(limit, 30) if limit >= 0 else None
    assert _widest(range(31), fits) == expected
    assert len(asked) <= 10 and max(asked, default=0) <= max(2 * limit + 2, 1)


def test_the_published_ladders_are_planned_too():
    """A small picture: weights of millions are not made for a test of a size."""
    ladder = replace(MOOFA, resolutions=(32,))
    assert Pieces("stm32h743").of([parts(ladder, smallest(ladder), 10)[2]]).arena_bytes > 0
    assert OFA.stages != MOOFA.stages


# ---- on the board --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_planned_peaks_are_what_the_emulated_board_touches():
    pytest.importorskip("unicorn")
    from benchmarks.moofa_boards import board_rows

    rows = board_rows(SMALL_MOOFA, 3, seed=5)
    planned_bytes, observed = ([row.value for row in rows if row.metric == metric] for metric in ("arena_bytes", "observed_arena_bytes"))
    random = Random(5)
    told = [costs("stm32f746", SMALL_MOOFA.name)(sample(SMALL_MOOFA, random)).arena_bytes for _ in range(3)]
    assert planned_bytes == observed == told
