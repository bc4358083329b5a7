import numpy as np
import pytest
import tensorflow as tf

from larq_seresnet import SEResNet14
from larq_seresnet.training.ghost_batches import GhostBatches


@pytest.fixture
def model():
    tf.keras.utils.set_random_seed(0)
    return SEResNet14(filters=(4, 8, 16), weights=None)


def test_tests_see_the_model_itself(model, inputs):
    np.testing.assert_allclose(GhostBatches(model, 3)(inputs), model(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("count", "parts", "seen"),
    [
        (8, 2, [(0, 4), (4, 8)]),
        (5, 2, [(0, 3), (2, 5)]),
        (4, 3, [(0, 2), (2, 4), (2, 4)]),
        (1, 2, [(0, 1), (0, 1)]),
    ],
)
def test_every_part_has_statistics_of_its_own(model, inputs, count, parts, seen):
    """One after the other through the model itself: same probabilities, same moving averages."""
    inputs, before = inputs[:count], model.get_weights()
    alone = [model(inputs[first:last], training=True) for first, last in seen]
    averages = [weight.numpy() for weight in model.non_trainable_weights]
    model.set_weights(before)
    found = GhostBatches(model, parts)(inputs, training=True)
    size = seen[0][1]
    expected = {
        first + i: row
        for (first, _), part in zip(reversed(seen), reversed(alone), strict=True)
        for i, row in enumerate(part)
    }
    np.testing.assert_allclose(found, [expected[i] for i in range(count)], atol=1e-6)
    assert found.shape == (count, 10)
    assert size == -(-count // parts)
    for weight, average in zip(model.non_trainable_weights, averages, strict=True):
        np.testing.assert_allclose(weight, average, atol=1e-6)


def test_loss_is_that_of_the_whole_batch(model, inputs):
    """A step of SGD, beside the gradient of the mean over both halves."""
    labels = np.arange(8)
    loss = tf.keras.losses.SparseCategoricalCrossentropy()
    with tf.GradientTape() as tape:
        halves = [model(inputs[:4], training=True), model(inputs[4:], training=True)]
        value = loss(labels, tf.concat(halves, axis=0))
    kernel = model.get_layer("classifier").kernel
    gradient = tape.gradient(value, model.get_layer("classifier").trainable_weights[0])
    before = kernel.numpy()
    ghosts = GhostBatches(model, 2)
    ghosts.compile(tf.keras.optimizers.SGD(1.0), loss)
    ghosts.train_on_batch(inputs, labels)
    np.testing.assert_allclose(before - kernel.numpy(), gradient, atol=1e-5)
