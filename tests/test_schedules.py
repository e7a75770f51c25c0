"""Schedules: torch's values, in doubles on the host and with their digits in float32, at any step in any order."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functorch_optim import schedules

ALL = [
    schedules.constant(0.1),
    schedules.cosine_annealing(1.0, T_max=4, eta_min=0.1),
    schedules.cosine_annealing(3e-4, T_max=1000),
    schedules.warmup_cosine(1.0, warmup_steps=3, total_steps=11, end=0.1),
    schedules.warmup_cosine(3e-4, warmup_steps=0, total_steps=5),
]
every = pytest.mark.parametrize("schedule", ALL, ids=repr)


def test_cosine_annealing_is_torchs():
    golden = [1, 0.868198, 0.55, 0.231802, 0.1, 0.231802, 0.55, 0.868198, 1]
    schedule = schedules.cosine_annealing(1.0, T_max=4, eta_min=0.1)
    np.testing.assert_allclose([schedule(step) for step in range(9)], golden, atol=5e-7)


@given(st.integers(1, 5000), st.integers(0, 2_000_000))
def test_cosine_annealing_equals_the_closed_form_in_double_and_in_float32(T_max, step):
    exact = 0.1 + 0.9 * (1 + math.cos(math.pi * (step % (2 * T_max)) / T_max)) / 2
    schedule = schedules.cosine_annealing(1.0, T_max=T_max, eta_min=0.1)
    assert schedule(step) == pytest.approx(exact, rel=1e-12)
    assert float(schedule(jnp.asarray(step, jnp.int32))) == pytest.approx(exact, rel=5e-7)


def test_the_last_digits_of_a_cosine_that_ends_at_zero():
    schedule = schedules.cosine_annealing(1.0, T_max=100_000)
    exact = math.sin(math.pi / 200_000) ** 2
    assert schedule(99_999) == pytest.approx(exact, rel=1e-12)
    assert float(schedule(jnp.int32(99_999))) == pytest.approx(exact, rel=1e-6)


def test_warmup_cosine():
    schedule = schedules.warmup_cosine(2.0, warmup_steps=4, total_steps=8, end=1.0)
    expected = [0, 0.5, 1, 1.5, 2, 1.5 + math.sqrt(0.125), 1.5, 1.5 - math.sqrt(0.125), 1, 1, 1]
    np.testing.assert_allclose([schedule(step) for step in range(11)], expected, rtol=1e-12)
    assert schedules.warmup_cosine(2.0, 0, 8)(0) == 2.0


@every
def test_host_traced_vmapped_and_fractional_agree(schedule):
    steps = np.arange(12)
    host = np.array([schedule(int(step)) for step in steps])
    assert isinstance(schedule(3), float)
    compiled = jax.jit(schedule)
    np.testing.assert_allclose([compiled(step) for step in jnp.asarray(steps, jnp.int32)], host, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)), host, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.asarray(steps, jnp.int32)), host, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.asarray(steps, jnp.float32)), host, rtol=1e-6)
    np.testing.assert_allclose(schedule(2.5), schedule(jnp.float32(2.5)), rtol=1e-6)
    assert compiled(jnp.int32(0)).dtype == jnp.float32


@every
def test_value_equal(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert eval(repr(schedule), vars(schedules).copy()) == schedule


def test_traced_options():
    value = jax.jit(lambda peak, step: schedules.warmup_cosine(peak, 2, 4)(step))(jnp.float32(0.5), jnp.int32(1))
    assert float(value) == 0.25
    slope = jax.grad(lambda lr: schedules.cosine_annealing(lr, 4)(1))(jnp.float32(1.0))
    np.testing.assert_allclose(slope, (1 + math.cos(math.pi / 4)) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine_annealing(1.0, T_max=0), "T_max must be an integer of at least 1"),
        (lambda: schedules.cosine_annealing(1.0, T_max=2.5), "T_max must be an integer of at least 1"),
        (lambda: schedules.warmup_cosine(1.0, -1, 4), "warmup_steps must be an integer of at least 0"),
        (lambda: schedules.warmup_cosine(1.0, 4, 4), "total_steps must be an integer of at least 5"),
    ],
)
def test_counts_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
