import numpy as np
import pytest

from larq_seresnet.training import config, optimizers

import tensorflow as tf


@pytest.mark.parametrize("shape", [(144, 16), (16, 144), (8, 8)])
def test_orthogonal_factors(shape):
    """Singular vectors stay, singular values come near 1."""
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    changed = u.T @ optimizers.orthogonalize(tf.constant(matrix)).numpy() @ v.T
    np.testing.assert_allclose(changed, np.diag(np.diag(changed)), atol=1e-4)
    large = values > 0.1 * np.linalg.norm(values)
    assert np.all((np.diag(changed)[large] > 0.5) & (np.diag(changed)[large] < 1.3))


def test_two_steps_by_hand():
    """Kernels of convolutions by Muon; everything else exactly as Adam."""
    random = np.random.default_rng(1)
    start = random.normal(size=(3, 3, 4, 8)).astype(np.float32)
    gradients = [random.normal(size=start.shape).astype(np.float32) for _ in range(2)]
    kernel, bias, reference = tf.Variable(start), tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    muon = optimizers.Muon(0.01, kernel_ratio=5.0, momentum=0.8)
    adam = tf.keras.optimizers.Adam(0.01)
    for gradient in gradients:
        muon.apply_gradients([(gradient, kernel), (tf.constant([0.3, -0.1]), bias)])
        adam.apply_gradients([(tf.constant([0.3, -0.1]), reference)])
    np.testing.assert_array_equal(bias, reference)
    first, second = gradients
    expected = start
    for momentum, gradient in ((first, first), (0.8 * first + second, second)):
        direction = optimizers.orthogonalize(
            tf.reshape(gradient + np.float32(0.8) * momentum, [36, 8])
        )
        expected = expected - 0.05 * tf.reshape(direction, start.shape)
    np.testing.assert_allclose(kernel, expected, atol=1e-6)
    size = np.sqrt(np.mean((kernel.numpy() - start) ** 2))
    assert 0.5 * 0.05 * 36**-0.5 < size < 2 * 1.3 * 0.05 * 36**-0.5


def test_wide_kernels_move_as_far():
    """The root mean square of a step is the rate times fan-in^-1/2 whatever the shape."""
    for shape in ((1, 1, 4, 16), (3, 3, 16, 16)):
        kernel = tf.Variable(tf.zeros(shape))
        gradient = np.random.default_rng(2).normal(size=shape).astype(np.float32)
        optimizers.Muon(0.01, kernel_ratio=10.0).apply_gradients([(gradient, kernel)])
        step = np.sqrt(np.mean(kernel.numpy() ** 2)) * np.prod(shape[:-1]) ** 0.5
        assert 0.05 < step < 0.13


def test_config_round_trip():
    muon = optimizers.Muon(0.02, kernel_ratio=3.0, momentum=0.7)
    again = optimizers.Muon.from_config(muon.get_config())
    assert again.get_config() == muon.get_config()


def test_one_cycle_by_hand():
    schedule = optimizers.OneCycle(peak=1.0, steps=10)
    rates = [float(schedule(step)) for step in range(10)]
    up = [0.25, 0.75]
    down = [(10 - step - 0.5) / 8 for step in range(2, 10)]
    assert rates == pytest.approx(up + down)
    again = optimizers.OneCycle.from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()


def test_recipes_move_what_they_say():
    """`fast`: kernels of convolutions by Muon, ten times Adam's rate; `plain`: Adam alone."""
    fast = optimizers.build(config.Config(recipe="fast"), 100)
    assert (type(fast), fast.kernel_ratio) == (optimizers.Muon, 10.0)
    assert fast.get_config()["learning_rate"]["config"] == {
        "peak": 0.01,
        "steps": 100,
        "warmup": 0.2,
    }
    plain = optimizers.build(config.Config(recipe="plain", learning_rate=0.003), 100)
    assert type(plain) is tf.keras.optimizers.Adam
    assert float(plain.learning_rate) == np.float32(0.003)
