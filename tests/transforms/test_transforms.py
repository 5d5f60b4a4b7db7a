"""What each transform sends, what it keeps, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutti
from tutti._spec import decode, encode
from tutti.errors import ParameterError
from tutti.forms import Coder, Projector
from tutti.testing.transform import check_coder

CHAINS = [
    (tutti.Half(),),
    (tutti.Half("bfloat16"),),
    (tutti.Int8(),),
    (tutti.Int8(block=7),),
    (tutti.TopK(0.1),),
    (tutti.TopK(0.3), tutti.Int8(block=16)),
    (tutti.TopK(0.3), tutti.Half()),
    (tutti.TopK(1.0),),
]
ERROR = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def sent(chain, v):
    """Return (what v decodes to on the other side, what v keeps), or None where it is refused."""
    first, then = chain[0], chain[1:]
    payload, kept = np.full(first.n_bytes(len(v), v.dtype, then), 255, np.uint8), v.copy()
    if not first.encode(kept, payload, then):
        return None
    out = np.full(len(v), np.nan, v.dtype)
    payload.flags.writeable = False
    first.decode(payload, out, then)
    return out, kept


def numbers(rng, n, dtype, spread=3.0):
    return (rng.standard_normal(n) * np.exp(spread * rng.standard_normal(n))).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    chain=st.sampled_from(CHAINS),
    dtype=st.sampled_from(["float32", "float64"]),
    n=st.sampled_from([0, 1, 2, 15, 16, 17, 500, 65_535, 65_536, 65_537, 140_000]),
    seed=st.integers(0, 99),
    zeros=st.booleans(),
)
def test_what_is_decoded_and_what_is_kept_make_up_what_came(chain, dtype, n, seed, zeros):
    rng = np.random.default_rng(seed)
    v = numbers(rng, n, dtype)
    if zeros:
        v[rng.random(n) < 0.9] = 0
    out, kept = sent(chain, v)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(
        out.astype("longdouble") + kept,
        v,
        rtol=4 * np.finfo(dtype).eps,
        atol=4 * np.finfo(dtype).eps * abs(v).max(initial=0),
    )
    assert not out[v == 0].any(), "zeros are exact"
    again = sent(chain, v)
    assert (out.tobytes(), kept.tobytes()) == (again[0].tobytes(), again[1].tobytes()), "the same bits every time"


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_the_contract_is_kept(chain):
    check_coder(*chain)


class Deaf(tutti.Int8):
    """Takes what is not finite."""

    def encode(self, v, payload, then=()):
        super().encode(v, payload, then)
        return True


class Forgetful(tutti.TopK):
    """Keeps nothing of what it leaves out."""

    def encode(self, v, payload, then=()):
        fine = super().encode(v, payload, then)
        v[:] = 0
        return fine


@pytest.mark.parametrize("wrong, words", [(Deaf(), "encode takes nan"), (Forgetful(0.5), "decoded and left is not v")])
def test_the_contract_test_catches_what_breaks_it(wrong, words):
    with pytest.raises(AssertionError, match=words):
        check_coder(wrong)


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_over_many_rounds_all_is_sent_but_what_is_kept(chain, dtype):
    rng, left = np.random.default_rng(1), np.zeros(3000, dtype)
    came, went = np.zeros(3000), np.zeros(3000)
    for _ in range(40):
        g = numbers(rng, 3000, dtype, 1.0)
        came += g
        out, left = sent(chain, left + g)
        went += out
    scale = abs(came).max() * 40 * np.finfo(dtype).eps
    np.testing.assert_allclose(went + left, came, atol=4 * scale)
    if chain[0].selects:
        assert abs(left).max() < abs(came).max() * 3, "what is left does not pile up"
    else:
        assert abs(left).max() < 0.05 * abs(went).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 3e37])
def test_half_precision_is_that_of_the_format_at_any_size(half, dtype, size):
    v = (np.random.default_rng(0).uniform(0.5, 1, 5000) * size).astype(dtype)
    out, _ = sent((tutti.Half(half),), v)
    assert (abs(out - v) <= ERROR[half] * v).all()


def test_float16_rounds_as_numpy_does():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].astype(np.float32)
    between = np.nextafter(every[:-1], 9) / 2 + every[1:] / 2
    v = np.concatenate([every, between[np.isfinite(between)], (every[:-1] + every[1:]) / 2])
    v = v[abs(v) < 32_768]
    v = np.append(v, np.float32(16_384.0))  # the largest is below 2^15, so that nothing is moved
    out, _ = sent((tutti.Half(),), v)
    np.testing.assert_array_equal(out, v.astype(np.float16).astype(np.float32))


def test_bfloat16_rounds_as_torch_does():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    v = np.append(numbers(np.random.default_rng(2), 20_000, "float32", 1.0).clip(-1.9, 1.9), np.float32(1.5))
    out, _ = sent((tutti.Half("bfloat16"),), v)
    np.testing.assert_array_equal(out, torch.from_numpy(v).bfloat16().float().numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_int8_is_off_by_half_a_step_of_its_block_at_most(dtype):
    v = numbers(np.random.default_rng(3), 5001, dtype)
    out, _ = sent((tutti.Int8(block=256),), v)
    for lo in range(0, len(v), 256):
        part = slice(lo, lo + 256)
        assert (abs(out[part] - v[part]) <= abs(v[part]).max() / 254 * (1 + 1e-5)).all()
        at = np.argmax(abs(v[part]))
        np.testing.assert_allclose(out[part][at], v[part][at], rtol=1e-6)


def test_int8_rounds_half_to_even():
    v = np.array([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0], np.float32)
    assert sent((tutti.Int8(),), v)[0].tolist() == [127, 0, 2, 2, 0, -2, -2, 0]


def test_numbers_too_small_for_a_scale_wait():
    v = np.full(10, 1e-45, np.float32)
    out, kept = sent((tutti.Int8(),), v)
    assert not out.any()
    np.testing.assert_array_equal(kept, v)


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["float32", "float64"]),
    n=st.integers(1, 400),
    share=st.sampled_from([0.001, 0.01, 0.25, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_top_k_takes_the_largest_and_of_equals_the_first(dtype, n, share, seed):
    v = np.random.default_rng(seed).integers(-4, 5, n).astype(dtype)
    k = min(max(int(share * n + 0.5), 1), n)
    best = sorted(range(n), key=lambda i: (-abs(v[i]), i))[:k]
    wanted = np.zeros(n, dtype)
    wanted[best] = v[best]
    out, kept = sent((tutti.TopK(share),), v)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(kept, v - wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_top_k_of_many_numbers_is_that_of_a_full_sort(dtype):
    v = numbers(np.random.default_rng(4), 300_001, dtype)
    out, _ = sent((tutti.TopK(0.01),), v)
    assert np.count_nonzero(out) == 3000
    assert abs(out[out != 0]).min() == np.sort(abs(v))[-3000]


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_is(chain, dtype, bad):
    for place in (0, 699):
        v = np.ones(700, dtype)
        v[place] = bad
        assert sent(chain, v) is None


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_a_payload_that_is_too_short_is_refused(chain):
    payload = np.zeros(chain[0].n_bytes(1000, np.dtype("f4"), chain[1:]) - 8, np.uint8)
    with pytest.raises(ValueError, match=r"bytes came|not there"):
        chain[0].decode(payload, np.zeros(1000, np.float32), chain[1:])


def test_places_out_of_reach_are_refused():
    payload = np.full(tutti.TopK(0.01).n_bytes(1000, np.dtype("f4")), 255, np.uint8)
    with pytest.raises(ValueError, match="places that are not there"):
        tutti.TopK(0.01).decode(payload, np.zeros(1000, np.float32))


def test_bytes_of_a_million_numbers():
    def n_bytes(*chain):
        return chain[0].n_bytes(1_000_000, np.dtype("f4"), chain[1:])

    assert n_bytes(tutti.Half()) == 2_000_008
    assert n_bytes(tutti.Int8()) == 1_007_816
    assert n_bytes(tutti.TopK(0.01)) == 60_064
    assert n_bytes(tutti.TopK(0.01), tutti.Int8()) == 30_144
    assert tutti.PowerSGD(2).n_values([(0, 1000, 1000)]) == 4000


def test_what_is_thin_already_is_not_made_thinner():
    matrices = [(0, 100, 50), (5000, 3, 2), (5006, 1, 900)]
    assert tutti.PowerSGD(2).worth(matrices) == [(0, 100, 50)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_become_orthonormal_and_what_adds_nothing_becomes_zero(dtype):
    p = np.random.default_rng(5).standard_normal((50, 4)).astype(dtype)
    p[:, 2] = p[:, 0] * 2
    q = tutti.PowerSGD(4).orthonormal(p.copy())
    np.testing.assert_allclose(q.T @ q, np.diag([1, 1, 0, 1]), atol=1e-5 if dtype == "float32" else 1e-12)
    assert not tutti.PowerSGD(2).orthonormal(np.zeros((5, 2), dtype)).any()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: tutti.Half("float8"), "'float16' or 'bfloat16'"),
        (lambda: tutti.Int8(block=0), "256 to 1024"),
        (lambda: tutti.Int8(block=True), "256 to 1024"),
        (lambda: tutti.TopK(0), "such as 0.01"),
        (lambda: tutti.TopK(1.5), "such as 0.01"),
        (lambda: tutti.TopK("1%"), "such as 0.01"),
        (lambda: tutti.PowerSGD(0), "at least 1"),
        (lambda: tutti.AllReduce(compress="int8"), r"tutti\.Int8\(\)"),
        (lambda: tutti.AllReduce(compress=tutti.Int8), r"tutti\.Int8\(\)"),
        (lambda: tutti.AllReduce(compress=[tutti.Int8()]), "first what selects"),
        (lambda: tutti.AllReduce(compress=(tutti.Int8(), tutti.TopK(0.1))), "first what selects"),
        (lambda: tutti.AllReduce(compress=(tutti.Int8(), tutti.Half())), "first what selects"),
        (lambda: tutti.AllReduce(compress=(tutti.TopK(0.1), tutti.PowerSGD(2))), "first what selects"),
        (lambda: tutti.AllReduce(compress=(tutti.TopK(0.1), tutti.Int8(), tutti.Half())), "first what selects"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_with_what_to_write(make, words):
    with pytest.raises(ParameterError, match=words):
        make()


def test_transforms_are_inert_parameter_objects():
    for transform in (*itertools.chain(*CHAINS), tutti.PowerSGD(3)):
        assert isinstance(transform, Coder | Projector)
        assert decode(*encode(transform)) == transform
        assert type(transform)(**transform.get_params()) == transform
    assert tutti.AllReduce(compress=(tutti.TopK(0.1), tutti.Int8())).get_params()["compress"][0].share == 0.1
