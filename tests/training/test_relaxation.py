import larq as lq
import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import relaxation

import tensorflow as tf


@pytest.fixture
def convolution():
    """One 1-bit filter a class, whose output for an image of ones is the sum of its weights."""
    image = tf.keras.Input((1, 1, 4))
    layer = lq.layers.QuantConv2D(
        2, 1, use_bias=False, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
    )
    model = tf.keras.Model(image, tf.keras.layers.Flatten()(layer(image)))
    layer.set_weights([np.array([[0.1, 1.2], [-0.2, -0.4], [0.3, -0.4], [-0.6, 0.0]])[None, None]])
    model.compile("sgd", "mse")
    return model


ONES = np.ones((1, 1, 1, 4), np.float32)
# signs +-+- and +--+; weights by the mean of their absolute values, 0.3 and 0.5
SIGNS, REAL = np.array([0.0, 0.0]), np.array([-0.4 / 0.3, 0.4 / 0.5])


@pytest.mark.parametrize("hardness", [0.0, 0.25, 1.0])
def test_kernels_by_hand(convolution, hardness):
    relaxed = relaxation.Relaxation(convolution, steps=10)
    relaxed.hardness.assign(hardness)
    expected = hardness * SIGNS + (1 - hardness) * REAL
    np.testing.assert_allclose(convolution(ONES)[0], expected, atol=1e-6)


def test_the_gradient_is_that_of_the_sign(convolution):
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(convolution(ONES) * [[1.0, 2.0]])
        return tape.gradient(loss, convolution.trainable_weights[0])[0, 0]

    straight_through = gradient()
    relaxation.Relaxation(convolution, steps=10).hardness.assign(0.25)
    np.testing.assert_array_equal(gradient(), straight_through)
    np.testing.assert_array_equal(straight_through, [[1, 0], [1, 2], [1, 2], [1, 2]])


@pytest.fixture
def signs():
    """A convolution with a weight of 1 for each of the image's four values, which it takes +-1."""
    image = tf.keras.Input((2, 2, 1))
    layer = lq.layers.QuantConv2D(
        1, 1, use_bias=False, input_quantizer="ste_sign", kernel_quantizer="ste_sign"
    )
    model = tf.keras.Model(image, layer(image))
    layer.set_weights([np.ones((1, 1, 1, 1))])
    return model


VALUES = np.reshape([0.5, -0.25, -3.0, 0.0], (1, 2, 2, 1)).astype(np.float32)


@pytest.mark.parametrize("hardness", [0.0, 0.25, 1.0])
def test_inputs_by_hand(signs, hardness):
    relaxed = relaxation.Relaxation(signs, steps=10)
    relaxed.hardness.assign(hardness)
    expected = hardness * np.array([1, -1, -1, 1]) + (1 - hardness) * np.array([0.5, -0.25, -1, 0])
    np.testing.assert_allclose(np.ravel(signs(VALUES)), expected, atol=1e-6)


def test_the_gradient_of_inputs_is_that_of_the_sign(signs):
    relaxation.Relaxation(signs, steps=10).hardness.assign(0.25)
    values = tf.constant(VALUES)
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_sum(signs(values) * np.reshape([1.0, 2.0, 3.0, 4.0], (1, 2, 2, 1)))
    np.testing.assert_array_equal(np.ravel(tape.gradient(loss, values)), [1, 2, 0, 4])


def test_inputs_are_signs_throughout_where_that_is_asked(signs):
    relaxation.Relaxation(signs, steps=10, inputs=False).hardness.assign(0.0)
    np.testing.assert_array_equal(np.ravel(signs(VALUES)), [1, -1, -1, 1])


def test_a_model_whose_inputs_harden_is_cloned_as_it_was(signs):
    relaxation.Relaxation(signs, steps=10).hardness.assign(0.0)
    clone = tf.keras.models.clone_model(signs)
    clone.set_weights(signs.get_weights())
    np.testing.assert_array_equal(np.ravel(clone(VALUES)), [1, -1, -1, 1])


def test_hardness_rises_in_training_and_tests_see_signs(convolution):
    relaxed = relaxation.Relaxation(convolution, steps=4)
    seen = []
    look = tf.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(relaxed.hardness))
    )
    images, targets = np.repeat(ONES, 3, axis=0), np.ones((3, 2), np.float32)
    for _ in range(2):
        history = convolution.fit(
            images,
            targets,
            batch_size=1,
            verbose=0,
            callbacks=[relaxed, look],
            validation_data=(ONES, targets[:1]),
        ).history
        sums = np.where(convolution.get_weights()[0] >= 0, 1, -1).sum(axis=(0, 1, 2))
        assert history["val_loss"] == [pytest.approx(np.mean((sums - 1) ** 2))]
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_float32_kernels_stay_as_they_are():
    model = SEResNet14(precision="float32", filters=(4, 8, 16), weights=None)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    before = model(images)
    relaxation.Relaxation(model, steps=10).hardness.assign(0.0)
    np.testing.assert_array_equal(model(images), before)
