"""The rules by which weights move: torch's numbers, and the same bits however the array is cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tutti.strategies import _rules

N, STEPS = 203, 7
R = np.random.default_rng(3)
START = R.standard_normal(N)
GRADIENTS = R.standard_normal((STEPS, N))


def moved(rule, n_states, dtype, cuts=(0, N)):
    """Return the weights after all steps; ``rule(w, g, states, count)`` moves a range of them."""
    w, states = START.astype(dtype), np.zeros((n_states, N), dtype)
    for count, g in enumerate(GRADIENTS.astype(dtype), 1):
        for lo, hi in pairwise(cuts):
            rule(w[lo:hi], g[lo:hi], states[:, lo:hi], count)
    return w


RULES = {
    "sgd": (0, lambda w, g, s, t: _rules.sgd(w, g, None, 0.1)),
    "momentum": (1, lambda w, g, s, t: _rules.sgd(w, g, s[0], 0.1, 0.9)),
    "nesterov": (1, lambda w, g, s, t: _rules.sgd(w, g, s[0], 0.1, 0.9, nesterov=True)),
    "adagrad": (1, lambda w, g, s, t: _rules.adagrad(w, g, s[0], 0.1)),
    "adam": (2, lambda w, g, s, t: _rules.adam(w, g, s[0], s[1], t, 0.1, (0.8, 0.95))),
}


THEIRS = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("adagrad", {}),
    "adam": ("adam", {"betas": (0.8, 0.95)}),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_moves_as_torch_does(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from tutti.learners.module._build import build_optimizer

    theirs, options = THEIRS[name]
    p = torch.nn.Parameter(torch.tensor(START))
    theirs = build_optimizer(theirs, 0.1, None, options)[0]([{"params": [p]}])
    for g in GRADIENTS:
        p.grad = torch.tensor(g)
        theirs.step()
    n_states, rule = RULES[name]
    np.testing.assert_allclose(moved(rule, n_states, np.float64), p.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_ranges_give_the_bits_of_the_whole(name, dtype):
    n_states, rule = RULES[name]
    whole = moved(rule, n_states, dtype)
    assert whole.dtype == dtype
    for cuts in ((0, 64, N), (0, 1, 17, 100, N)):
        assert moved(rule, n_states, dtype, cuts).tobytes() == whole.tobytes()


def test_elastic_averaging_keeps_the_sum_and_draws_both_together():
    own, center = START.copy(), GRADIENTS[0].copy()
    total, apart = own + center, np.abs(own - center)
    _rules.elastic(own, center, 0.25)
    np.testing.assert_allclose(own + center, total, rtol=1e-14)
    np.testing.assert_allclose(np.abs(own - center), apart / 2, rtol=1e-12)
