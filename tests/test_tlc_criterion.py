"""The ON/OFF rule against scipy's normal distribution and against samples drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import UsageError
from sdk.prepare.tlc.criterion import Agreement, Channels, below_zero, correlation, half_energies, lost_energy, pooled, sign_entropy

FINITE = st.floats(-4, 4, allow_nan=False, width=32)
SPREAD = st.floats(0.0625, 3, width=32)


@settings(max_examples=60, deadline=None)
@given(beta=FINITE, gamma=SPREAD, sign=st.sampled_from([-1.0, 1.0]))
def test_below_zero_is_the_normal_distribution(beta, gamma, sign):
    norm = pytest.importorskip("scipy.stats").norm
    found = below_zero(np.array([beta]), np.array([gamma * sign]))
    assert found[0] == pytest.approx(norm.cdf(0, beta, gamma), abs=1e-12)


def test_a_channel_that_never_moves_is_a_step():
    assert below_zero(np.array([0.5, 0.0, -0.5]), np.zeros(3)).tolist() == [0.0, 1.0, 1.0]


def test_on_is_where_most_is_positive():
    channels = Channels(np.array([1.0, -1.0, 0.0]), np.array([1.0, -2.0, 1.0]))
    assert channels.on.tolist() == [True, False, False]
    assert ((channels.below_zero < 0.5) == channels.on).all()


def test_entropy_of_known_layers():
    assert sign_entropy(np.array([0.5, 0.5])) == pytest.approx(1.0)
    assert sign_entropy(np.array([0.0, 1.0])) == pytest.approx(0.0, abs=1e-12)
    assert sign_entropy(np.array([0.25])) == pytest.approx(2 - 0.75 * np.log2(3))


@settings(max_examples=20, deadline=None)
@given(beta=FINITE, gamma=SPREAD)
def test_half_energies_are_those_of_samples(beta, gamma):
    x = beta + gamma * np.random.default_rng(0).standard_normal(200_000)
    above, below = half_energies(np.array([beta]), np.array([gamma]))
    scale = beta * beta + gamma * gamma
    assert above[0] == pytest.approx(float((np.maximum(x, 0) ** 2).mean()), abs=0.03 * scale)
    assert below[0] == pytest.approx(float((np.minimum(x, 0) ** 2).mean()), abs=0.03 * scale)
    assert above[0] + below[0] == pytest.approx(scale, rel=1e-9)


def test_lost_energy_is_nothing_where_no_channel_switches_and_much_where_all_do():
    sure = Channels(np.array([6.0, -6.0]), np.ones(2))
    torn = Channels(np.array([0.01, -0.01]), np.ones(2))
    assert lost_energy(sure) < 1e-6 < 0.9 < lost_energy(torn) < 1.1


def test_agreement_tells_how_well_the_normal_distribution_foretold():
    predicted = np.array([0.1, 0.5, 0.9])
    same, turned = Agreement("a", predicted, predicted), Agreement("b", predicted, 1 - predicted)
    assert same.correlation == pytest.approx(1.0)
    assert turned.correlation == pytest.approx(-1.0)
    assert turned.largest_error == pytest.approx(0.8)
    assert pooled([same, turned]) == pytest.approx(0.0, abs=1e-12)
    assert correlation(np.ones(3), np.ones(3)) == 1.0
    assert correlation(np.ones(3), predicted) == 0.0


def test_damaged_layers_are_refused():
    with pytest.raises(UsageError, match="not finite; the network's weights are damaged"):
        Channels(np.array([np.nan]), np.ones(1))
    with pytest.raises(UsageError, match="2 means and 1 deviations"):
        Channels(np.ones(2), np.ones(1))
    with pytest.raises(UsageError, match="no layer was measured"):
        pooled([])
