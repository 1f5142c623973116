"""Compressors against tensorly, against laws of orthogonal projections, and against what they promise about memory and state."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from sdk.planner.training.records import LayerRecord  # noqa: E402
from sdk.training.nn import calibration, decompose, modes, sensitivity  # noqa: E402
from sdk.training.nn.compressors import Refresh, asi, exact, fixed, hosvd, svd  # noqa: E402
from sdk.training.nn.conv_grad import Geometry, conv_weight_grad  # noqa: E402
from sdk.training.nn.ranks import WHOLE_FROM, Sharing, _front, captured, ranks_global, ranks_per_mode, ranks_shared  # noqa: E402
from tests.data import shared  # noqa: E402
from tests.test_training_functions import ORDERS, normal, smooth, turned  # noqa: E402


def lost(x, kept):
    """The share of the energy of x that what was kept of it misses."""
    return float((kept.reconstruct() - x).square().sum() / x.square().sum())


def spectra_of(x):
    """The energies of every mode, by numpy's singular values of the unfoldings."""
    return [np.linalg.svd(np.moveaxis(x.numpy().astype(np.float64), n, 0).reshape(x.shape[n], -1), compute_uv=False) ** 2 for n in range(x.dim())]


@pytest.mark.parametrize("order", ORDERS)
def test_gram_matrices_and_projections_are_those_of_the_unfoldings(order, monkeypatch):
    monkeypatch.setattr(modes, "CHUNK", 200)  # several pieces
    x = normal(5, 6, 9, 8).contiguous(memory_format=ORDERS[order])
    bases = [normal(d, max(1, d // 2)) for d in x.shape]
    for n in range(4):
        unfolded = x.movedim(n, 0).reshape(x.shape[n], -1)
        for double in (False, True):
            gram = modes.unfold_gram(x, n, double)
            assert gram.dtype == (torch.float64 if double else torch.float32)
            assert torch.allclose(gram.float(), unfolded @ unfolded.t(), atol=1e-4)
    for chosen in itertools.product((False, True), repeat=4):
        some = [b if use else None for b, use in zip(bases, chosen, strict=True)]
        want = x
        for n, basis in enumerate(some):
            want = want if basis is None else torch.tensordot(want, basis, dims=([n], [0])).movedim(-1, n)
        assert torch.allclose(modes.project(x, some), want, atol=1e-4)
        whole = [None if b is None else turned(b.shape[0]) for b in some]
        assert torch.allclose(modes.expand(modes.project(x, whole), whole), x, atol=1e-5)


@pytest.mark.parametrize("shape", ((14, 20, 9, 8), (14, 9, 20), (14, 20)), ids=str)
def test_hosvd_agrees_with_tensorly(shape):
    tensorly = pytest.importorskip("tensorly")
    from tensorly.decomposition import partial_tucker, tucker

    x = smooth(*shape)
    for eps in (0.7, 0.9, 0.99):
        ranks = ranks_per_mode(spectra_of(x), eps)
        theirs = [0 if r >= WHOLE_FROM * d else r for r, d in zip(ranks, shape, strict=True)]
        cut = [n for n, rank in enumerate(theirs) if rank]
        (core, factors), _ = partial_tucker(x.numpy(), [theirs[n] for n in cut], modes=cut, n_iter_max=0)
        want = tensorly.tenalg.multi_mode_dot(core, factors, modes=cut)
        kept = hosvd(eps, sequential=False).compress(x)
        assert kept.core().shape == core.shape, "the ranks of the published rule"
        assert torch.allclose(kept.reconstruct(), torch.from_numpy(np.ascontiguousarray(want)), atol=2e-3)
        given = hosvd(eps, ranks=theirs).compress(x)
        (core, factors), errors = tucker(x.numpy(), [r or d for r, d in zip(theirs, shape, strict=True)], n_iter_max=25, return_errors=True)
        assert errors[-1] ** 2 <= lost(x, given) * 1.001 + 1e-6  # iterated to the optimum, it may be a little better
        assert lost(x, given) <= errors[-1] ** 2 * 1.15 + 1e-6, "and hardly is"


@pytest.mark.parametrize("shape", ((20, 80, 12, 12), (20, 24, 40), (40, 60)), ids=str)
@pytest.mark.parametrize("eps", (0.6, 0.8, 0.95))
def test_sequential_hosvd_loses_at_most_its_budget_in_all(shape, eps):
    compressor = hosvd(eps)
    for batch in range(4):  # the first from Gram matrices, the others from the directions of the one before
        x = smooth(*shape, seed=batch // 2)
        kept = compressor.compress(x)
        assert lost(x, kept) <= (1 - eps) + 1e-4
        assert kept.nbytes < x.nbytes


@given(st.integers(0, 10_000), st.sampled_from((0.5, 0.8, 0.95)), st.sampled_from(((6, 5, 4), (24, 8, 8), (10, 3), (40,))))
@settings(max_examples=40, deadline=None)
def test_global_ranks_keep_the_budget_with_the_fewest_values(seed, eps, shape):
    random = np.random.default_rng(seed)
    spectra = [np.sort(random.exponential(size=d) ** 3)[::-1] for d in shape]
    ranks = ranks_global(spectra, shape, eps, samples=16)
    assert captured(spectra, ranks) >= eps - 1e-9
    assert all(r == 0 or r < WHOLE_FROM * d for r, d in zip(ranks, shape, strict=True))

    def values(ranks):
        return 16 * np.prod([r or d for r, d in zip(ranks, shape, strict=True)]) + sum(r * d for r, d in zip(ranks, shape, strict=True))

    allowed = [[0, *(r for r in range(1, d) if r < WHOLE_FROM * d and d > 4)] for d in shape]
    best = min(values(r) for r in itertools.product(*allowed) if captured(spectra, r) >= eps - 1e-12)
    assert values(ranks) == best


def test_ranks_of_the_published_rule():
    assert ranks_per_mode([np.array([8.0, 1.0, 1.0]), np.array([5.0, 5.0])], 0.9) == (2, 2)
    assert ranks_per_mode([np.array([8.0, 1.0, 1.0])], 0.8) == (1,)
    assert ranks_per_mode([np.array([3.0, 2.0, 1.0])], 1.0) == (3,)
    assert ranks_per_mode([np.zeros(4)], 0.9) == (1,)
    with pytest.raises(ValueError, match="share of energy"):
        ranks_global([np.ones(3)], (3,), 0.0)
    with pytest.raises(ValueError, match="spectrum of 2 energies"):
        ranks_global([np.ones(2)], (3,), 0.5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eps", (0.5, 0.8, 0.95))
def test_layers_that_share_an_eps_keep_the_fewest_values_for_what_they_lose(seed, eps):
    """No other choice of all layers together takes fewer values and loses less; what is lost of the gradients together stays within eps."""
    rng = np.random.default_rng(seed)
    shapes = [(12, 5, 5), (9,), (6, 8)]
    layers = [Sharing([np.sort(rng.exponential(1, d) ** 3)[::-1] for d in s], s, float(rng.exponential(1)) ** 2) for s in shapes]
    ranks = ranks_shared(layers, eps)
    total = sum(layer.weight for layer in layers)
    fronts = [_front(layer, 16, min(0.7, 3 * (1 - eps))) for layer in layers]
    lost = sum(layer.weight * (1 - captured(layer.spectra, r)) for layer, r in zip(layers, ranks, strict=True)) / total
    assert lost <= 1 - eps + 1e-9
    values = sum(values_of(layer.shape, r) for layer, r in zip(layers, ranks, strict=True))
    for picked in itertools.product(*(range(len(front[0])) for front in fronts)):
        other = sum(front[0][i] for front, i in zip(fronts, picked, strict=True))
        theirs = sum(layer.weight * front[1][i] for layer, front, i in zip(layers, fronts, picked, strict=True)) / total
        assert not (other < values and theirs < lost - 1e-9)
    alone = [ranks_global(layer.spectra, layer.shape, eps) for layer in layers]
    most = sum(max(front[0]) for front in fronts)  # one step of one layer may be all that separates them
    assert values <= sum(values_of(layer.shape, r) for layer, r in zip(layers, alone, strict=True)) + 0.2 * most


def values_of(shape, ranks, samples=16):
    core = samples * np.prod([r or d for d, r in zip(shape, ranks, strict=True)])
    return core + sum(d * r for d, r in zip(shape, ranks, strict=True))


def test_a_layer_without_gradient_keeps_little_and_all_without_keep_their_own_eps():
    spectra = [2.0 ** -np.arange(20)]
    large, none = Sharing(spectra, (20,), 1.0), Sharing(spectra, (20,), 0.0)
    for eps, least in ((0.9, 0.7), (0.8, 0.4)):
        (kept,), (little,) = ranks_shared([large, none], eps)
        assert little < kept and captured(spectra, (little,)) >= least
    assert ranks_shared([none, none], 0.9) == [ranks_global(spectra, (20,), 0.9)] * 2
    with pytest.raises(ValueError, match="share of the gradient of 0"):
        ranks_shared([large], 0.0)



ALL = {
    "exact": exact,
    "svd": lambda: svd(0.8),
    "hosvd": lambda: hosvd(0.9),
    "published": lambda: hosvd(0.9, sequential=False),
    "asi": lambda: asi((6, 3, 4, 4)),
    "fixed": lambda: fixed((turned(10)[:, :3], turned(9)[:, :4], None)),
    "fixed batch": lambda: fixed((turned(10)[:, :3], None, None), batch_eps=0.8),
}


@pytest.mark.parametrize("kind", ("float32", "float16", "int8"))
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_owns_its_storage(name, order, kind):
    """A view of a larger tensor would keep all of it: the published code does, and its real memory is many times what it claims."""
    larger = smooth(16, 10, 9, 16)
    x = larger.contiguous(memory_format=ORDERS[order])[..., :8]
    compressor = ALL[name]()
    compressor.factors = kind
    kept = compressor.compress(x)
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept.tensors}
    assert sum(sizes.values()) == kept.nbytes
    shared = [part for basis in kept.constants if basis is not None for part in basis.parts]
    assert not {t.untyped_storage().data_ptr() for t in shared} & set(sizes)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in shared)
    if name != "exact":
        assert kept.nbytes < 0.8 * x.nbytes


def test_the_fixed_bases_do_not_keep_the_matrices_they_were_cut_from():
    whole = turned(64)
    compressor = fixed((whole[:, :3], whole[:8, :2], None))
    assert compressor.held[0].parts[0].untyped_storage().nbytes() == 64 * 3 * 4
    assert compressor.held[1].parts[0].untyped_storage().nbytes() == 8 * 2 * 4


@pytest.mark.parametrize("kind,limit", (("float16", 1e-6), ("int8", 1e-3)))
def test_rounded_factors_cost_little_energy(kind, limit):
    x = smooth(16, 24, 8, 8)
    bases = decompose.plain_hosvd(x, 0.9)[1:]
    full, small = fixed(bases).compress(x), fixed(bases, factors=kind).compress(x)
    assert float((small.reconstruct() - full.reconstruct()).square().sum() / full.reconstruct().square().sum()) < limit
    assert small.nbytes <= full.nbytes // {"float16": 2, "int8": 4}[kind] + 4 * 24
    with pytest.raises(ValueError, match="float32, float16, int8"):
        fixed(bases, factors="int4")


@pytest.mark.parametrize("kind", ("float32", "float16", "int8"))
def test_renewed_bases_go_on_as_they_were_held(kind):
    """Rounding once more would not give the same values, so a run that is resumed gets the very bytes."""
    bases = decompose.plain_hosvd(smooth(16, 24, 8, 8), 0.9)[1:]
    one, other = (fixed(bases, Refresh(0.99, every=1, slack=0.0), kind) for _ in range(2))
    one.compress(smooth(16, 24, 8, 8, seed=3))
    assert one.refreshes == 1 and not torch.equal(one.bases[0], other.bases[0])
    other.carry({name: part.clone() for name, part in one.carried().items()})
    for basis, same in zip(one.held, other.held, strict=True):
        assert (basis is None) == (same is None)
        assert basis is None or all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(basis.parts, same.parts, strict=True))
    assert fixed(bases).carried() == {}


def test_directions_that_hosvd_looks_in_go_on_too():
    x, later = smooth(16, 160, 6, 6), smooth(16, 160, 6, 6, seed=1)
    one, other = hosvd(0.9), hosvd(0.9)
    one.compress(x)
    assert one.blocks
    before = dict(vars(one))
    other.carry({name: block.clone() for name, block in one.carried().items()})
    assert torch.equal(one.compress(later).core(), other.compress(later).core())
    vars(one).update(before)  # as a step that failed is taken back
    again = hosvd(0.9)
    again.carry(one.carried())
    assert torch.equal(again.compress(later).core(), one.compress(later).core())


def test_asi_serves_a_shorter_last_batch_and_leaves_torchs_random_state_alone():
    before = torch.get_rng_state()
    compressor = asi((10, 4, 5, 4), seed=3)
    x = smooth(32, 20, 12, 10)
    assert lost(x, compressor.compress(x)) < 0.5
    for batch in (9, 1, 32):
        part = x[:batch].clone()
        kept = compressor.compress(part)
        assert kept.core().shape == (10 if batch == 32 else batch, 4, 5, 4)
        assert lost(part, kept) < 0.6
    assert torch.equal(torch.get_rng_state(), before)
    again = asi((10, 4, 5, 4), seed=3).compress(x)
    assert torch.equal(again.core(), asi((10, 4, 5, 4), seed=3).compress(x).core())
    with pytest.raises(ValueError, match="the batch first"):
        compressor.compress(normal(3, 4))


def test_a_warm_start_is_better_than_a_cold_one_when_the_input_drifts_slowly():
    base, drift = smooth(24, 40, 12, 12), smooth(24, 40, 12, 12, seed=5)
    ranks, warm, gains = (0, 5, 4, 4), asi((0, 5, 4, 4)), []
    for step in range(12):
        x = base + 0.04 * step * drift
        kept = warm.compress(x)
        if step >= 4:
            gains.append(lost(x, asi(ranks, seed=step).compress(x)) - lost(x, kept))
            best = lost(x, hosvd(1.0, ranks).compress(x))
            assert lost(x, kept) <= best * 1.1
    assert np.mean(gains) > 0 and min(gains) > -1e-4


def test_fixed_bases_are_renewed_when_they_capture_too_little_and_not_too_often():
    first = smooth(16, 24, 8, 8)
    bases = decompose.plain_hosvd(first, 0.9)[1:]
    eps = 1 - lost(first, fixed(bases).compress(first))
    turn = turned(24, seed=8)
    other = torch.einsum("bchw,cd->bdhw", first, turn)  # the same spectra in other directions of the channels
    compressor = fixed(bases, refresh=Refresh(eps, every=4))
    for _ in range(6):
        compressor.compress(first)
    assert compressor.refreshes == 0 and compressor.bases[0] is not None and torch.equal(compressor.bases[0], bases[0])
    assert compressor.captured == pytest.approx(eps, abs=1e-4)
    before = lost(other, fixed(bases).compress(other))
    renewed_at = []
    for step in range(12):
        kept = compressor.compress(other)
        if compressor.refreshes > len(renewed_at):
            renewed_at.append(step)
            assert [None if b is None else b.shape for b in compressor.bases] == [None if b is None else b.shape for b in bases]
    assert renewed_at and all(b - a >= 4 for a, b in itertools.pairwise(renewed_at))
    assert lost(other, kept) < 0.5 * before
    for basis in compressor.bases:
        if basis is not None:
            assert torch.allclose(basis.t() @ basis, torch.eye(basis.shape[1]), atol=1e-5)


def test_small_batches_are_never_compressed_along_the_batch():
    small = fixed((turned(20)[:, :4], None, None), batch_eps=0.3)
    assert small.compress(smooth(8, 20, 6, 6)).core().shape[0] == 8
    assert small.compress(smooth(32, 20, 6, 6)).core().shape[0] < 32


@pytest.mark.parametrize("name", ALL)
def test_an_input_that_is_not_finite_is_kept_and_not_decomposed(name):
    x = smooth(16, 10, 9, 8)
    x[0, 0, 0, 0] = float("nan")
    assert ALL[name]().compress(x).shape == x.shape  # no error of a linear-algebra library; the loss tells


@pytest.mark.parametrize("d", (80, 120, 300))
def test_leading_directions_of_large_gram_matrices_are_eigenvectors(d):
    x = smooth(d, 400)
    gram = x @ x.t()
    energies, directions = np.linalg.eigh(gram.double().numpy())
    share = 0.15 * float(gram.trace())
    basis, gone, _ = decompose.leading(gram, share)
    k = basis.shape[1]
    assert gone <= share * (1 + 1e-5)
    assert energies[::-1][: k - 1].sum() < float(gram.trace()) - share * (1 - 1e-3), "no fewer would do"
    best = directions[:, ::-1][:, :k]
    assert np.linalg.norm(best.T @ basis.double().numpy()) ** 2 > 0.98 * k  # the same subspace


def background_case():
    """(x, dy, gradient): the strongest channel direction of x is even light that no gradient meets."""
    x, dy = smooth(16, 10, 8, 8), smooth(16, 6, 8, 8, seed=3)
    dy = dy - dy.mean((2, 3), keepdim=True)
    x = x + 10 * turned(10, 1, seed=4)[:, 0, None, None]  # the same everywhere: its product with dy sums to nothing
    return x, dy, lambda saved, dy: conv_weight_grad(saved, dy, Geometry(), (1, 1))


def test_directions_by_gradient_keep_more_of_it_than_those_by_energy():
    x, dy, gradient = background_case()
    exact_grad = gradient(exact().compress(x), dy)
    energy = modes.unfold_gram(x, 1)

    def loss(basis):
        return float((gradient(fixed((basis[:, :2], None, None)).compress(x), dy) - exact_grad).square().sum() / exact_grad.square().sum())

    by_gradient = sensitivity.directions(sensitivity.gradient_gram(x, dy, gradient), energy).float()
    assert torch.allclose(by_gradient.t() @ by_gradient, torch.eye(10), atol=1e-5)
    assert loss(by_gradient) < 0.5 * loss(decompose.spectrum(energy)[1])


def test_sensitivity_is_the_loss_that_is_measured():
    x, dy, gradient = background_case()
    exact_grad = gradient(exact().compress(x), dy)
    bases = [decompose.spectrum(modes.unfold_gram(x, n))[1] for n in (1, 2, 3)]
    seen = sensitivity.Sensitivity(bases, gradient, features=1)
    seen.see(x, dy)
    seen.see(x, torch.zeros_like(dy))  # a batch without gradient says nothing
    spectra = seen.spectra([modes.unfold_gram(x, n) for n in (1, 2, 3)])
    for n, spectrum in enumerate(spectra):
        assert spectrum.min() >= 0 and spectrum.sum() == pytest.approx(1.0, abs=1e-6)
        energy = (modes.unfold_gram(x, n + 1).double() @ bases[n].double() * bases[n]).sum(0)
        energy = energy / energy.sum()
        one = [None, None, None]
        one[n] = bases[n][:, :1]
        rest = float((gradient(fixed(one).compress(x), dy) - exact_grad).square().sum() / exact_grad.square().sum())
        share = sensitivity._ENERGY
        if rest <= 1:  # the loss with one direction, less than with none
            assert spectrum[1:].sum() == pytest.approx((1 - share) * rest + share * float(energy[1:].sum()), rel=1e-3, abs=1e-4)


def test_ranks_for_nearly_everything_hold_the_energy_too():
    """Features without a gradient but with energy: what they are worth grows from nothing at an eps of 0.8 to all of a small loss at 0.9."""
    record = LayerRecord(
        "fc", "linear", (8,), (4,), (4, 8),
        spectra=(np.full(8, 1 / 8),),
        gradient_spectra=(np.array([0.9, 0.1, 0, 0, 0, 0, 0, 0]),),
        energy_spectra=(np.array([0.5, 0.25, 0.11, 0.05, 0.04, 0.03, 0.01, 0.01]),),
    )  # fmt: skip
    ranks = {eps: calibration.ranks_for(record, "fixed", eps)[1] for eps in (0.6, 0.8, 0.85, 0.9)}
    assert ranks == {0.6: 1, 0.8: 1, 0.85: 1, 0.9: 4}
    lost = np.append(calibration._worth(record, 0.85)[0][::-1].cumsum()[::-1], 0)
    np.testing.assert_allclose(lost, [1, 0.1, 0.1, 0.1, 0.09, 0.05, 0.02, 0.01, 0], atol=1e-12)
    lost = np.append(calibration._worth(record, 0.95)[0][::-1].cumsum()[::-1], 0)
    np.testing.assert_allclose(lost, [1, 0.2, 0.2, 0.14, 0.09, 0.05, 0.02, 0.01, 0], atol=1e-12)
    assert calibration._worth(record, 0.8) is record.gradient_spectra
    assert calibration.ranks_for(record, "asi", 0.9, 1) == calibration.ranks_for(replace(record, gradient_spectra=()), "asi", 0.9, 1)
    together = {eps: calibration.shared_ranks([replace(record, gradient_norm=1.0)], eps)["fc"] for eps in (0.8, 0.9)}
    assert together[0.8] == (pytest.approx(0.9), (0, 1)) and together[0.9] == (1.0, (0, 0))  # whole: four directions and a basis save little more


def test_refresh_without_a_share_expects_what_the_first_batch_had():
    first = smooth(16, 24, 8, 8)
    bases = decompose.plain_hosvd(first, 0.6)[1:]
    compressor = fixed(bases, refresh=Refresh(every=1))
    for _ in range(5):
        compressor.compress(first)
    assert compressor.refreshes == 0
    turn = turned(24, seed=8)
    for _ in range(12):
        compressor.compress(torch.einsum("bchw,cd->bdhw", first, turn))
    assert compressor.refreshes > 0


@pytest.mark.long
def test_fixed_subspaces_beat_hosvd_of_every_batch_on_a_real_net():
    """The last twelve convolutions of a trained MobileNetV2-0.35 on shifted pictures: a closer gradient from at most 60 % of the bytes."""
    shared("cifar10/cifar10_jpeg_train.npz")
    from benchmarks.training_nets import build, pictures
    from sdk.training.nn import calibrate
    from sdk.training.nn.data import checked_labels, checked_samples
    from sdk.training.nn.observe import visit_layers
    from sdk.training.nn.program import read_program

    x, y = pictures("mobilenetv2_035_32", 128, seed=1)
    program = read_program(build("mobilenetv2_035_32"), x[:2])
    names = [name for name, layer in program.by_name.items() if layer.record.op == "conv2d"][-12:]
    batches = [(x[n : n + 32], y[n : n + 32]) for n in range(0, 128, 32)]
    found = calibrate.calibrate(program, batches, eps_grid=(0.85,), methods=("fixed",), layers=names)
    ways = {
        "fixed": {name: fixed(found.basis(name, calibrate.ranks_for(found.record(name), "fixed", 0.85))) for name in names},
        "hosvd": {name: hosvd(0.8, sequential=False) for name in names},
    }
    x, y = pictures("mobilenetv2_035_32", 32, seed=77)
    products, kept = {way: np.zeros(3) for way in ways}, dict.fromkeys(ways, 0)

    def visit(step, x, dy):
        layer = program.by_name[step.layer]
        exact_grad = calibrate._gradient(layer, step, exact().compress(x), dy).double()
        for way, compressors in ways.items():
            saved = compressors[step.layer].compress(x)
            grad = calibrate._gradient(layer, step, saved, dy).double()
            products[way] += [float((grad * exact_grad).sum()), float(grad.square().sum()), float(exact_grad.square().sum())]
            kept[way] += saved.nbytes

    for n in range(0, 32, 16):
        labels = checked_labels(y[n : n + 16], 16, program.classes)
        visit_layers(program, checked_samples(x[n : n + 16], program), labels, dict.fromkeys(names, visit))
    cosines = {way: dot / np.sqrt(a * b) for way, (dot, a, b) in products.items()}
    assert cosines["fixed"] > cosines["hosvd"] > 0.8
    assert cosines["fixed"] > 0.9
    assert kept["fixed"] < 0.6 * kept["hosvd"]
