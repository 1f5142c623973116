"""What latencies are told by: instructions on the emulated board where they are asked for; and removals that would cost some are not made."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import sdk.tlc  # noqa: E402
from sdk.errors import UsageError  # noqa: E402
from sdk.prepare.tlc.nn.candidates import candidates  # noqa: E402
from sdk.prepare.tlc.nn.costs import Costs  # noqa: E402
from sdk.prepare.tlc.nn.merge import finish  # noqa: E402
from sdk.prepare.tlc.nn.nodes import ChannelAffine  # noqa: E402
from sdk.prepare.tlc.nn.score import Importance  # noqa: E402
from sdk.prepare.tlc.nn.trace import canonical, sites  # noqa: E402

BOARD = "stm32f746"


class Residual(nn.Module):
    """x -> 3x3 -> ReLU -> 3x3, + x, then ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), Residual(16), nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    )


@pytest.fixture
def counts(monkeypatch):
    """Plans that were run, on a board whose averages take a thousand times what the planner says."""
    ran = []

    def dear(plan):
        ran.append(plan)
        return [round(step.cycles * (1000 if step.op == "mean" else 1)) for step in plan.steps]

    monkeypatch.setattr(sdk.tlc, "counted", dear)
    return ran


def test_choices_follow_what_was_counted(counts):
    """A pooling that is dear on the board weighs in the network's cost, once; a merge that the planner holds to be far slower is not run."""
    module = canonical(net(), torch.zeros(2, 1, 8, 8))
    planned, counted = (candidates(module, sites(module), Costs(BOARD, None, count), 5, lambda _: None) for count in (None, sdk.tlc.counted))
    assert counted.cost.latency_s > 1.2 * planned.cost.latency_s
    assert counted.cost.latency_s == pytest.approx(sum(o.latency_s for o in counted.options if o.last == o.first + 1 and not o.removes))
    assert {o.merged for o in planned.options} == {o.merged for o in counted.options}
    assert any("as planned" in reason for reason in counted.refused)
    kernels = [node.attrs.get("kernel") or plan.graph[node.inputs[1]].shape[1:3] for plan in counts for node in plan.graph.nodes if node.op == "conv2d"]
    assert (5, 5) not in kernels


def test_a_collapse_by_instructions_says_so(counts):
    torch.manual_seed(1)
    x, y = torch.randn(60, 1, 8, 8), torch.arange(60) % 3
    found = sdk.tlc.collapse(net(), (x, y), {"removed": 1}, device=BOARD, cost="counted", epochs=0, measure=False, score_samples=20, refit_samples=20)
    assert "instructions on the emulated stm32f746" in str(found.report)
    assert found.report.settings["cost"] == "counted"
    assert len({id(plan) for plan in counts}) == len(counts), "each is run once"


@pytest.mark.qemu
def test_instructions_are_those_of_the_emulated_board():
    plan = Costs(BOARD).plan(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)), (1, 1, 8, 8))
    spent = sdk.tlc.counted(plan)
    assert len(spent) == len(plan.steps)
    assert min(spent) > 0
    assert spent[0] > plan.cost.macs / 4


def test_only_boards_are_emulated():
    with pytest.raises(UsageError, match="host is none; use cost='planned'"):
        Costs("host", None, lambda _: [])
    with pytest.raises(UsageError, match="cost 'measured' is not known; choose one of planned, counted"):
        sdk.tlc.Settings(cost="measured")


def test_behind_an_addition_only_the_identity_stands():
    """A line for each channel would be a multiplication there, which the fused activation was not."""
    module = canonical(net(), torch.zeros(2, 1, 8, 8))
    found = {site.name: site for site in sites(module)}
    behind = [site for site in found.values() if not site.exclusive]
    assert len(behind) == 1
    importance = Importance(module, list(found.values()), torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long), "line", "divergence")
    stand_in = importance.replacements[behind[0].name]
    assert (stand_in.scale == 1).all()
    assert not stand_in.shift.any()
    assert any((r.scale != 1).any() for r in importance.replacements.values())
    from sdk.prepare.tlc.nn.linearise import linearise

    small = finish(linearise(module, behind[0].name))
    assert ChannelAffine not in [type(layer) for layer in small.modules()]
