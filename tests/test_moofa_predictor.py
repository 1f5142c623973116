"""Ridge on one-hots: features, fit, how sure it is, what to measure next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sdk.errors import DataError, UsageError
from sdk.prepare.moofa.ladders import MOOFA, OFA
from sdk.prepare.moofa.predictor import columns, features, fit, kendall_tau, rmse, width
from sdk.prepare.moofa.space import Subnet, largest, smallest, uniform
from tests.moofa_space import MadeUpAccuracy, draws


def test_features_of_the_published_ladders_are_the_124_one_hots():
    assert width(OFA) == width(MOOFA) == 124
    row = features(OFA, [uniform(OFA, kernel=5, expansion=6, depth=2, resolution=160)])[0]
    assert row.sum() == 2 * 10 + 1  # two choices for each of ten used slots, and the resolution
    assert row[:6].tolist() == [0, 1, 0, 0, 0, 1]
    assert not row[12:24].any(), "slots 2 and 3 of the first stage are not used"
    assert row[120:].tolist() == [0, 1, 0, 0]


def test_features_are_equal_exactly_for_equal_networks():
    nets = draws(MOOFA, 300, 1)
    unused = [Subnet(tuple(7 if i % 4 >= n.depths[i // 4] else k for i, k in enumerate(n.kernels)), n.expansions, n.depths, n.resolution) for n in nets]
    assert (features(MOOFA, nets) == features(MOOFA, unused)).all()
    rows = {row.tobytes() for row in features(MOOFA, nets)}
    assert len(rows) == len({net.key(MOOFA) for net in nets})


@pytest.mark.parametrize("ladder", [OFA, MOOFA], ids=lambda ladder: ladder.name)
def test_150_subnets_rank_the_rest(ladder):
    # with this noise 100, 200 and 2,000 subnets rank as well as in the measurements that were published: tau 0.83, 0.91, 0.94
    accuracy = MadeUpAccuracy(ladder, noise=0.002, seed=4)
    nets, others = draws(ladder, 150, 2), draws(ladder, 600, 3)
    made = fit(ladder, nets, accuracy.many(nets))
    told, deviation = made.predict(others)
    assert kendall_tau(told, accuracy.many(others)) >= 0.85
    assert rmse(told, accuracy.many(others)) < 0.005
    # leave-one-out tells from the 150 alone what the other 600 say
    assert abs(rmse(made.left_out, accuracy.many(nets)) - rmse(told, accuracy.many(others))) < 0.0015
    true = MadeUpAccuracy(ladder, seed=4).many(others)
    assert (np.abs(told - true) < 2 * deviation).mean() > 0.6, "two standard deviations hold most of the truth"


def test_one_subnet_left_out_is_predicted_as_by_a_fit_without_it():
    nets = draws(OFA, 60, 5)
    accuracy = MadeUpAccuracy(OFA, noise=0.003).many(nets)
    whole = fit(OFA, nets, accuracy, penalty=2.0)
    for i in (0, 17, 59):
        rest = [j for j in range(60) if j != i]
        without = fit(OFA, [nets[j] for j in rest], accuracy[rest], penalty=2.0)
        assert without.score([nets[i]])[0] == pytest.approx(whole.left_out[i], abs=1e-9)


def test_the_fit_is_the_ridge_of_the_normal_equations():
    nets = draws(OFA, 40, 6)
    accuracy = MadeUpAccuracy(OFA).many(nets)
    made = fit(OFA, nets, accuracy, penalty=1.0)
    x = columns(OFA, nets) - columns(OFA, nets).mean(0)
    matrix = x.T @ x + np.eye(x.shape[1])
    assert made.weights == pytest.approx(np.linalg.solve(matrix, x.T @ (accuracy - accuracy.mean())), abs=1e-10)
    assert made.covariance == pytest.approx(made.noise**2 * np.linalg.inv(matrix), abs=1e-12)


def test_predictions_stay_within_what_was_measured_and_scores_do_not():
    nets = [net for net in draws(OFA, 200, 7) if net.resolution < 224]
    accuracy = MadeUpAccuracy(OFA).many(nets)
    made = fit(OFA, nets, accuracy)
    told, _ = made.predict([largest(OFA), smallest(OFA)])
    assert accuracy.min() <= told[1] <= told[0] <= accuracy.max()
    assert made.score([largest(OFA)])[0] > accuracy.max()


def test_what_was_not_measured_is_less_sure():
    nets = [net for net in draws(OFA, 200, 8) if net.resolution == 128]
    made = fit(OFA, nets, MadeUpAccuracy(OFA, noise=0.003).many(nets))
    others = draws(OFA, 50, 9)
    seen, unseen = (made.predict([Subnet(n.kernels, n.expansions, n.depths, side) for n in others])[1] for side in (128, 224))
    assert (unseen > seen).all()
    assert (made.predict(nets)[1] < seen.mean()).all(), "what was measured is surest"


def test_picks_spread_instead_of_crowding():
    nets = [net for net in draws(MOOFA, 200, 10) if net.resolution == 128]
    made = fit(MOOFA, nets, MadeUpAccuracy(MOOFA, noise=0.002).many(nets))
    alike = draws(MOOFA, 1, 11)[0]
    crowd, others = ([Subnet((k, *alike.kernels[1:]), alike.expansions, alike.depths, side) for k in (3, 5, 7)] for side in (224, 160))
    surest, *crowd = sorted(crowd, key=lambda net: made.predict([net])[1][0])
    lonely = others[(3, 5, 7).index(surest.kernels[0])]
    assert made.predict([lonely])[1][0] < made.predict(crowd)[1].min(), "each of the crowd is less sure by itself"
    assert lonely in made.pick([*crowd, lonely], 2, optimism=1e6)
    assert len({net.key(MOOFA) for net in made.pick([*crowd, lonely], 3)}) == 3


def test_measuring_what_is_picked_leaves_less_in_doubt_than_chance():
    accuracy, pool, first = MadeUpAccuracy(MOOFA, noise=0.002), draws(MOOFA, 800, 10), draws(MOOFA, 40, 12)
    picked = fit(MOOFA, first, accuracy.many(first), penalty=1.0).pick(pool, 40, optimism=1e6)
    after = {name: fit(MOOFA, first + more, accuracy.many(first + more), penalty=1.0) for name, more in (("picked", picked), ("chance", pool[:40]))}
    deviation = {name: p.predict(pool)[1].max() / p.noise for name, p in after.items()}
    assert deviation["picked"] < deviation["chance"]


def test_the_noise_of_measurements_is_told():
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.02, width(OFA))
    told = []
    for seed in range(5):
        nets = draws(OFA, 160, seed)
        told.append(fit(OFA, nets, 0.7 + features(OFA, nets) @ weights + random.normal(0, 0.01, 160)).noise)
    assert np.mean(told) == pytest.approx(0.01, rel=0.25)


def test_without_optimism_the_best_by_prediction_are_picked():
    nets, pool = draws(MOOFA, 60, 13), draws(MOOFA, 100, 14)
    made = fit(MOOFA, nets, MadeUpAccuracy(MOOFA).many(nets))
    best = {pool[i].key(MOOFA) for i in np.argsort(-made.score(pool))[:5]}
    assert {net.key(MOOFA) for net in made.pick(pool, 5, optimism=0.0)} == best
    assert len(made.pick(pool[:3], 5)) == 3


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30))
def test_tau_is_scipys(pairs):
    a, b = zip(*pairs, strict=True)
    expected = kendalltau(a, b).statistic
    assert kendall_tau(a, b) == (pytest.approx(expected) if np.isfinite(expected) else 0.0)


def test_bad_measurements_are_refused():
    nets = draws(OFA, 10, 15)
    with pytest.raises(DataError, match="10 subnets came with accuracies of shape \\(9,\\)"):
        fit(OFA, nets, [0.5] * 9)
    with pytest.raises(DataError, match="needs 8 measured subnets or more and got 7"):
        fit(OFA, nets[:7], [0.5] * 7)
    with pytest.raises(DataError, match="accuracy of subnet 3 is not finite"):
        fit(OFA, nets, [0.5] * 3 + [float("nan")] + [0.5] * 6)
    with pytest.raises(UsageError, match="penalty of 0 is not possible"):
        fit(OFA, nets, [0.5] * 10, penalty=0)


def test_equal_accuracies_are_no_division_by_zero():
    nets = draws(OFA, 10, 16)
    told, deviation = fit(OFA, nets, [0.5] * 10).predict(nets)
    assert (told == 0.5).all() and np.isfinite(deviation).all()
