"""Layers that keep little for backward: their gradients are autograd's, whatever is kept, and they keep no more than they say."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

from sdk.training.nn import conv_grad  # noqa: E402
from sdk.training.nn import functions as ours  # noqa: E402
from sdk.training.nn.activations import KEPT_BITS  # noqa: E402
from sdk.training.nn.compressors import asi, exact, fixed, hosvd, svd  # noqa: E402
from sdk.training.nn.factors import Held  # noqa: E402
from sdk.training.nn.functions import Geometry  # noqa: E402

ORDERS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def turned(length, rank=None, seed=0):
    """[length, rank]: orthonormal directions."""
    return torch.linalg.qr(normal(length, length, seed=seed))[0][:, : rank or length].contiguous()


def smooth(*shape, seed=0):
    """A tensor with falling spectra along all its modes, as activations have."""
    x = normal(*shape, seed=seed)
    for n, length in enumerate(shape):
        falling = (turned(length, seed=n) * (1.0 + torch.arange(length)) ** -1.5) @ turned(length, seed=n + 9).t()
        x = torch.tensordot(x, falling, dims=([n], [0])).movedim(-1, n)
    return (x / x.std()).contiguous()


def leaf(t):
    return t.clone(memory_format=torch.preserve_format).requires_grad_()


def gradients(f, tensors, dy=None):
    """(y, gradients of all tensors) of f, for a dy that is the same each time."""
    leaves = [leaf(t) for t in tensors]
    y = f(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, normal(*y.shape) if dy is None else dy)


def error(got, want):
    return float((got - want).abs().max() / want.abs().max())


def reference(geometry):
    top, bottom, left, right = geometry.padding
    return lambda x, w, b: F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, geometry.stride, 0, geometry.dilation, geometry.groups)


GROUPS = [(1, 6, 4), (2, 6, 4), (6, 6, 6), (6, 6, 12)]  # groups, C, O: dense, grouped, depthwise, depthwise with a multiplier
PADDINGS = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("kernel", (1, 3, 5))
def test_convolution_gradients_are_autograds_when_all_energy_is_kept(kernel, groups, order):
    g, c, o = groups
    x = normal(3, c, 11, 10).contiguous(memory_format=ORDERS[order])
    w, b = normal(o, c // g, kernel, kernel), normal(o)
    compressors = [exact(), fixed((turned(c), turned(11), turned(10))), fixed((None, turned(11), None)), fixed((turned(c), None, None))]
    for stride, dilation, padding in itertools.product((1, 2), (1, 2), PADDINGS):
        geometry = Geometry((stride, stride), padding, (dilation, dilation), g)
        y, want = gradients(reference(geometry), (x, w, b))
        for compressor in compressors:
            y_ours, got = gradients(lambda x, w, b, geometry=geometry, c=compressor: ours.conv2d(x, w, b, geometry, c), (x, w, b))
            assert torch.allclose(y_ours, y, atol=1e-5)
            assert max(map(error, got, want)) < 1e-4


LOSSLESS = {"hosvd": lambda: hosvd(1.0), "plain": lambda: hosvd(1.0, sequential=False), "svd": lambda: svd(1.0), "asi": lambda: asi((0, 0, 0, 0))}


@pytest.mark.parametrize("make", LOSSLESS.values(), ids=LOSSLESS)
def test_every_compressor_is_exact_when_nothing_may_be_lost(make):
    x, w, b = smooth(12, 6, 9, 8), normal(4, 6, 3, 3), normal(4)
    _, want = gradients(reference(Geometry(padding=(1, 1, 1, 1))), (x, w, b))
    _, got = gradients(lambda x, w, b: ours.conv2d(x, w, b, Geometry(padding=(1, 1, 1, 1)), make()), (x, w, b))
    assert max(map(error, got, want)) < 1e-4


COMPRESSORS = {
    "fixed": lambda: fixed((turned(8, 3), turned(9, 4), turned(8, 5))),
    "fixed rows": lambda: fixed((None, turned(9, 4), None)),
    "fixed channels and batch": lambda: fixed((turned(8, 3), None, None), batch_eps=0.8),
    "hosvd": lambda: hosvd(0.9),
    "published hosvd": lambda: hosvd(0.9, sequential=False),
    "hosvd of given ranks": lambda: hosvd(0.9, (5, 3, 0, 4)),
    "asi": lambda: asi((6, 3, 4, 4)),
    "svd": lambda: svd(0.8),
    "float16": lambda: fixed((turned(8, 3), turned(9, 4), turned(8, 5)), factors="float16"),
    "int8": lambda: hosvd(0.9, factors="int8"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("kernel", (1, 3))
def test_below_one_gradients_are_those_of_the_reconstructed_input(name, kernel, order):
    x = smooth(12, 8, 9, 8).contiguous(memory_format=ORDERS[order])
    for (g, o), stride, padding in itertools.product(((1, 4), (2, 4), (8, 8)), (1, 2), ((0, 0, 0, 0), (1, 0, 0, 1))):
        geometry, w, b = Geometry((stride, stride), padding, (1, 1), g), normal(o, 8 // g, kernel, kernel), normal(o)
        rebuilt = COMPRESSORS[name]().compress(x).reconstruct()
        assert error(rebuilt, x) > 1e-4  # something was lost
        _, want = gradients(reference(geometry), (x, w, b))
        _, rebuilt_want = gradients(reference(geometry), (rebuilt, w, b))
        _, got = gradients(lambda x, w, b, geometry=geometry: ours.conv2d(x, w, b, geometry, COMPRESSORS[name]()), (x, w, b))
        assert error(got[0], want[0]) < 1e-5 and error(got[2], want[2]) < 1e-5  # input and bias gradients know nothing of compression
        assert error(got[1], rebuilt_want[1]) < 1e-5


@pytest.mark.parametrize("shape", ((12, 20), (12, 9, 20), (3, 4, 9, 20)), ids=str)
def test_linear_gradients_for_two_to_four_dimensions(shape):
    x, w, b = smooth(*shape), normal(6, 20), normal(6)
    whole = fixed([turned(d) for d in shape[1:]])
    some = [fixed([turned(d, max(1, d // 3)) for d in shape[1:]]), hosvd(0.9), hosvd(0.9, sequential=False), asi([0, *(d // 2 for d in shape[1:])]), svd(0.8)]
    _, want = gradients(F.linear, (x, w, b))
    for compressor in (exact(), whole):
        _, got = gradients(lambda *t, c=compressor: ours.linear(*t, c), (x, w, b))
        assert max(map(error, got, want)) < 1e-4
    for compressor in some:
        rebuilt = compressor.compress(x).reconstruct()
        if compressor.name == "asi":
            compressor.bases = []  # its second batch would be compressed otherwise than the first
        _, rebuilt_want = gradients(F.linear, (rebuilt, w, b))
        _, got = gradients(lambda *t, c=compressor: ours.linear(*t, c), (x, w, b))
        assert error(got[1], rebuilt_want[1]) < 1e-5
        assert error(got[0], want[0]) < 1e-5 and error(got[2], want[2]) < 1e-5


def test_a_large_batch_is_worked_in_pieces_with_the_same_result(monkeypatch):
    monkeypatch.setattr(conv_grad, "CHUNK", 12 * 40 * 40 * 3)  # three samples at a time
    x, w, b = smooth(20, 12, 40, 40), normal(12, 1, 3, 3), normal(12)
    geometry = Geometry((2, 2), (1, 1, 1, 1), (1, 1), 12)
    compressor = fixed((turned(12, 8), turned(40, 9), None))
    _, want = gradients(reference(geometry), (compressor.compress(x).reconstruct(), w, b))
    _, got = gradients(lambda *t: ours.conv2d(*t, geometry, compressor), (x, w, b))
    assert error(got[1], want[1]) < 1e-5


def test_the_sink_gets_the_gradients_and_may_update_at_once():
    x, w, b, anchor = normal(2, 3, 5, 5), normal(4, 3, 1, 1), normal(4), torch.zeros(1, requires_grad=True)
    _, (dx, dw, _) = gradients(reference(Geometry()), (x, w, b))
    before = w.clone()

    def sink(grad_weight, grad_bias):
        w.sub_(grad_weight)
        b.sub_(grad_bias)

    given = leaf(x)
    y = ours.conv2d(given, w, b, Geometry(), exact(), sink, anchor)
    (got,) = torch.autograd.grad(y, [given], normal(*y.shape))
    assert torch.allclose(got, dx)  # of the weights as they were
    assert torch.allclose(w, before - dw)


def test_the_anchor_makes_backward_run_for_an_input_without_gradient():
    learned, anchor = [], torch.zeros(1, requires_grad=True)
    y = ours.linear(normal(3, 5), normal(2, 5), normal(2), exact(), lambda *g: learned.append(g), anchor)
    y = ours.frozen_linear(y, normal(2, 2), normal(2), lambda *g: learned.append(g))
    y.sum().backward()
    (none, bias), (weight, _) = learned
    assert none is None and bias.shape == (2,) and weight.shape == (2, 5)


def test_frozen_layers_keep_only_their_weight_and_give_exact_gradients():
    x, w, b, geometry = normal(2, 4, 7, 6), normal(6, 2, 3, 3), normal(6), Geometry((2, 1), (0, 1, 1, 2), (1, 2), 2)
    kept, frozen = kept_bytes(lambda x, b: ours.frozen_conv2d(x, w, b, geometry), (x, b))
    assert kept == w.nbytes
    _, want = gradients(lambda x, b: reference(geometry)(x, w, b), (x, b))
    assert max(map(error, frozen, want)) < 1e-5
    rows = normal(5, 7)
    kept, frozen = kept_bytes(lambda x, b: ours.frozen_linear(x, rows, b), (normal(3, 4, 7), normal(5)))
    _, want = gradients(lambda x, b: F.linear(x, rows, b), (normal(3, 4, 7), normal(5)))
    assert kept == rows.nbytes and max(map(error, frozen, want)) < 1e-5


def kept_bytes(f, tensors):
    """(bytes of all storages that autograd keeps for f, the gradients)."""
    storages, leaves = {}, [leaf(t) for t in tensors]

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = f(*leaves)
    return sum(storages.values()), torch.autograd.grad(y, leaves, normal(*y.shape))


def test_adapters_keep_the_projected_input_and_teach_p():
    x, w, b, geometry = normal(3, 8, 7, 6), normal(5, 8, 3, 3), normal(5), Geometry((2, 2), (1, 1, 0, 1))
    p, basis = normal(5, 2, 3, 3), turned(8, 2)
    kept, got = kept_bytes(lambda x, b, p: ours.adapter_conv2d(x, w, b, p, Held.of(basis), geometry), (x, b, p))
    assert kept == w.nbytes + p.nbytes + 4 * 3 * 2 * 7 * 6
    _, want = gradients(lambda x, b, p: reference(geometry)(x, w + torch.einsum("okuv,ck->ocuv", p, basis), b), (x, b, p))
    assert max(map(error, got, want)) < 1e-5
    x, w, p = normal(3, 4, 8), normal(5, 8), normal(5, 2)
    kept, got = kept_bytes(lambda x, b, p: ours.adapter_linear(x, w, b, p, Held.of(basis)), (x, b, p))
    assert kept == w.nbytes + p.nbytes + 4 * 3 * 4 * 2
    _, want = gradients(lambda x, b, p: F.linear(x, w + p @ basis.t(), b), (x, b, p))
    assert max(map(error, got, want)) < 1e-5


@pytest.mark.parametrize("kind", ("float32", "int8"))
def test_adapters_walk_the_path_of_fixed_subspace_descent(kind):
    """Descent on P in W0 + P U^T is descent on W with the input kept in the span of U, also of a U that is rounded."""
    x, w0, basis = smooth(16, 10), normal(3, 10), turned(10, 3)
    w, p, target, held, one = w0.clone(), torch.zeros(3, 3), normal(16, 3), Held.of(basis, kind), fixed((basis,), factors=kind)
    one.factors = "float32"  # the core as it is, so that nothing but the bases is rounded
    for _ in range(20):
        given = x.clone().requires_grad_()
        y = ours.linear(given, w, None, one, lambda g, _: w.sub_(0.05 * g))
        F.mse_loss(y, target).backward()
        given = x.clone().requires_grad_()
        z = ours.adapter_linear(given, w0, None, p, held, lambda g, _: p.sub_(0.05 * g))
        F.mse_loss(z, target).backward()
    assert float((w - w0).norm()) > 1e-2
    assert error(w0 + p @ held.tensor().t(), w) < 1e-5


def test_adapters_refuse_groups():
    with pytest.raises(ValueError, match="without groups"):
        ours.adapter_conv2d(normal(1, 4, 3, 3), normal(4, 1, 1, 1), None, normal(4, 1, 1, 1), Held.of(turned(4, 1)), Geometry(groups=4))


@pytest.mark.parametrize("inplace", (False, True), ids=("copy", "inplace"))
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ("relu", "relu6", "hardsigmoid", "hardswish"))
def test_masks_are_bits_and_gradients_exact(name, order, inplace):
    x = (4 * normal(3, 5, 67, 71)).contiguous(memory_format=ORDERS[order])  # more values than one piece, not a multiple of 8
    x[0, 0, 0, :4] = torch.tensor([0.0, 6.0, 3.0, -3.0])
    dy = normal(*x.shape).contiguous(memory_format=ORDERS[order])
    y, (want,) = gradients(getattr(F, name), (x,), dy)
    y_ours, (got,) = gradients(lambda t: getattr(ours, name)(t * 1.0, inplace=inplace), (x,), dy)
    assert torch.equal(y_ours, y)
    assert torch.equal(got, want) if KEPT_BITS[name] == 1 else error(got, want) < 3e-5
    kept, _ = kept_bytes(lambda t: getattr(ours, name)(t), (x,))
    assert kept == -(-x.numel() * KEPT_BITS[name] // 8)


def test_masks_serve_a_gradient_in_another_memory_order():
    x = normal(2, 3, 5, 7)
    dy = normal(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    assert torch.equal(gradients(ours.relu, (x,), dy)[1][0], gradients(F.relu, (x,), dy)[1][0])
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gradients(ours.relu, (x,), dy.contiguous())[1][0], gradients(F.relu, (x,), dy.contiguous())[1][0])


@pytest.mark.parametrize("name", ("hardswish", "gelu", "silu"))
def test_slopes_keep_two_bytes_or_are_exact_when_asked(name):
    x = 3 * normal(4, 33)
    kept, (got,) = kept_bytes(getattr(ours, name), (x,))
    _, (want,) = gradients(getattr(F, name), (x,))
    assert kept == 2 * x.numel() and error(got, want) < 3e-5
    _, (got,) = gradients(lambda t: getattr(ours, name)(t, precise=True), (x,))
    assert torch.equal(got, want)


@pytest.mark.parametrize("order", ORDERS)
def test_pooling_keeps_a_byte_an_output_or_nothing(order):
    x = normal(3, 5, 13, 11).contiguous(memory_format=ORDERS[order])
    for window in (((3, 2), (2, 2), (1, 1), (1, 2)), ((2, 2), (2, 2), (0, 0), (1, 1), True)):
        kept, got = kept_bytes(lambda t, window=window: ours.max_pool2d(t, *window), (x,))
        y, want = gradients(lambda t, window=window: F.max_pool2d(t, *window), (x,))
        assert kept == y.numel() and torch.equal(got[0], want[0])
    for mine, theirs in (
        (lambda t: ours.avg_pool2d(t, (3, 2), (2, 2), (1, 1)), lambda t: F.avg_pool2d(t, (3, 2), (2, 2), (1, 1))),
        (lambda t: ours.adaptive_avg_pool2d(t, (3, 4)), lambda t: F.adaptive_avg_pool2d(t, (3, 4))),
        (lambda t: ours.adaptive_avg_pool2d(t, (1, 1)), lambda t: F.adaptive_avg_pool2d(t, (1, 1))),
    ):
        kept, got = kept_bytes(mine, (x,))
        assert kept == 0 and error(got[0], gradients(theirs, (x,))[1][0]) < 1e-6


def test_scale_and_shift_keep_the_scale_and_attention_its_inputs():
    x, scale, shift = normal(3, 5, 4, 4), normal(5), normal(5)
    kept, (got,) = kept_bytes(lambda t: ours.scale_shift(t, scale, shift), (x,))
    assert kept == scale.nbytes
    assert error(got, gradients(lambda t: F.batch_norm(t, torch.zeros(5), torch.ones(5), scale, shift, eps=0.0), (x,))[1][0]) < 1e-6
    qkv = [normal(2, 3, 6, 8, seed=n) for n in range(3)]
    kept, got = kept_bytes(lambda *t: ours.scaled_dot_product_attention(*t, causal=True), qkv)
    assert kept == sum(t.nbytes for t in qkv)
    assert max(map(error, got, gradients(lambda *t: F.scaled_dot_product_attention(*t, is_causal=True), qkv)[1])) < 1e-5


@pytest.mark.parametrize("order", ORDERS)
def test_the_memory_order_stays(order):
    x = smooth(4, 8, 16, 16).contiguous(memory_format=ORDERS[order])
    for g, k in ((1, 1), (1, 3), (8, 3)):
        w = normal(8, 8 // g, k, k).contiguous(memory_format=ORDERS[order])
        y, (dx, _) = gradients(lambda x, w, g=g, k=k: ours.conv2d(x, w, None, Geometry(padding=(k // 2,) * 4, groups=g), hosvd(0.9)), (x, w), x)
        assert y.is_contiguous(memory_format=ORDERS[order]) and dx.is_contiguous(memory_format=ORDERS[order])
    _, (dx,) = gradients(ours.relu6, (x,), x)
    assert dx.is_contiguous(memory_format=ORDERS[order])
