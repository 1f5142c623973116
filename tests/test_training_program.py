"""Programs that learn: what is read from a net, that it computes what the net computes, and what is refused."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from benchmarks import small_nets  # noqa: E402
from benchmarks.linux_nets import SMALL  # noqa: E402
from sdk.errors import ModelError, UsageError  # noqa: E402
from sdk.training.nn.program import read_program, run_plain  # noqa: E402

F = nn.functional


def settle(net: nn.Module) -> nn.Module:
    """Batch norms with statistics that are not those of a fresh one: folding them changes the weights."""
    generator = torch.Generator().manual_seed(3)
    for layer in net.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
            if layer.affine:
                layer.weight.data.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    return net.eval()


class Odd(nn.Module):
    """One of everything: in-place and functional activations, "same" padding of an even kernel, groups, dilation, 1-D, reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        self.same, self.own = nn.Conv2d(8, 8, (4, 3), padding="same", groups=4), nn.BatchNorm2d(8, affine=False)
        self.wide = nn.Conv2d(8, 12, 3, 2, (2, 1), dilation=(2, 1))
        self.line, self.line_norm = nn.Conv1d(12, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6 * 8, 5)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        y = F.hardswish(self.own(self.same(y)), inplace=True)
        y = F.relu(self.wide(y), inplace=True).clamp(0, 6)
        y = F.max_pool2d(y, (8, 1)).squeeze(2)
        y = self.line_norm(self.line(y))
        y += 1
        return self.head(self.drop(y.reshape(y.shape[0], -1)))


def agrees(net, x):
    program = read_program(net, x[:2])
    with torch.no_grad():
        want, got = net(x), run_plain(program, x)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    merged, state = program.merged({}), net.state_dict()
    assert all(torch.equal(merged[name], state[name]) for name in state), "nothing was trained, so nothing may change, bit for bit"
    return program


@pytest.fixture(scope="module")
def odd():
    net = settle(Odd())
    return net, agrees(net, torch.rand(5, 3, 16, 16))


def test_everything_odd_is_read_and_computes_the_same(odd):
    program = odd[1]
    layers = {layer.name: layer for layer in program.layers}
    assert list(layers) == ["first", "same", "wide", "line", "head"]
    assert layers["first"].activation == "relu6" and layers["first"].has_bias, "the batch norm's shift is the bias that learns"
    assert layers["same"].padding == (1, 2, 1, 1) and layers["same"].groups == 4
    assert layers["wide"].dilation == (2, 1) and layers["wide"].input_shape == (8, 16, 16)
    assert layers["line"].weight_shape == (6, 12, 1, 3) and layers["line"].input_shape == (12, 1, 8)
    assert not any(step.kind == "batch_norm" for step in program.steps)


@pytest.mark.parametrize("name", ["resnet18", "text_transformer"])
def test_nets_of_the_benchmarks_are_read(name):
    net = SMALL[name]
    x = torch.from_numpy(np.concatenate(net.samples(3)))
    program = agrees(net.module(), x)
    expected = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.module().modules())
    assert len(program.layers) == expected


@functools.cache
def benchmark_program():
    """The trained MobileNetV2-0.35, read once for all tests."""
    return agrees(small_nets.pretrained("mobilenetv2_035"), torch.rand(3, 3, 32, 32))


def test_the_benchmark_net_is_all_layers_and_masks():
    program = benchmark_program()
    assert len(program.layers) == 53
    assert {step.kind for step in program.steps} <= {"conv2d", "relu6", "add", "adaptive_avg_pool2d", "linear", "plain", "scalar"}


def test_a_program_file_is_read_as_the_module_is(odd, tmp_path):
    net = odd[0]
    x = torch.rand(3, 3, 16, 16)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(exported, tmp_path / "net.pt2")
    for program in (read_program(tmp_path / "net.pt2"), read_program(exported.run_decompositions())):
        assert [layer.name for layer in program.layers] == ["first", "same", "wide", "line", "head"]
        assert torch.allclose(run_plain(program, x), net(x), atol=1e-4) and program.batch is None
    read = read_program(tmp_path / "net.pt2")
    assert read.model_id == odd[1].model_id, "where it was read from makes no other model of it"
    again = read.module({})
    assert torch.allclose(again(x), net(x), atol=1e-5)


def test_the_identity_is_that_of_the_weights():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(2, 4)
    first, same = read_program(net, x), read_program(net, x)
    net[1].weight.data[0, 0] += 1e-3
    assert first.model_id == same.model_id != read_program(net, x).model_id


def test_a_batch_norm_that_cannot_be_folded_stays_and_is_told():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.norm(self.a(x) + self.b(x)).mean((2, 3)))

    program = agrees(settle(Late()), torch.rand(3, 3, 4, 4))
    assert "stays as scale and shift" in program.decisions[0]


class Two(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x.sum((2, 3))


@pytest.mark.parametrize(
    ("net", "kind", "sentence"),
    [
        (nn.Sequential(nn.ReLU(), nn.Flatten()), ModelError, "nothing in the model can learn"),
        (nn.Conv2d(3, 4, 1), ModelError, r"needs logits \[samples, classes\]"),
        (Two(), ModelError, "needs one output"),
        (nn.Linear(7, 2), ModelError, "cannot trace Linear"),
        ("no_such.pt2", UsageError, "no such file"),
        (3, UsageError, "cannot train a int"),
    ],
)
def test_what_cannot_learn_is_refused_in_one_sentence(net, kind, sentence):
    with pytest.raises(kind, match=sentence):
        read_program(net, torch.rand(2, 3, 4, 4))


def test_a_program_in_training_mode_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).train()
    exported = torch.export.export(net, (torch.rand(2, 3, 4, 4),))
    with pytest.raises(ModelError, match="training mode"):
        read_program(exported)
    with pytest.raises(UsageError, match="without an example"):
        read_program(net)
