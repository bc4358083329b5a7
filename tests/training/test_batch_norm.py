import types

import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.training import batch_norm, callbacks, config, data, fitting, train

import tensorflow as tf

TINY = (
    "--dataset digits --limit-train 256 --limit-test 50 --batch-size 64 --filters 4 8 16 "
    "--compute-dtype float32 --deterministic --epochs 2"
).split()


@pytest.fixture
def two_layers():
    """BatchNorm of the images, and of ten times what it returns."""
    image = tf.keras.Input((2, 2, 3))
    first = tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=0.0)(image)
    scaled = tf.keras.layers.Lambda(lambda x: 10 * x)(first)
    return tf.keras.Model(image, tf.keras.layers.BatchNormalization(momentum=0.5)(scaled))


def _estimated(model, images, epoch, last=None):
    estimator = batch_norm.BatchNormEstimator(types.SimpleNamespace(train=(images, None)), last)
    estimator.set_model(model)
    estimator.on_epoch_begin(epoch)
    estimator.on_test_begin()
    return estimator


def test_statistics_are_plain_means_over_batches(two_layers, monkeypatch):
    """Whatever the momentum, and whatever they were before; two batches, of 3 and 2 images."""
    monkeypatch.setattr(batch_norm, "BATCH_SIZE", 3)
    images = np.random.default_rng(1).integers(0, 256, (5, 2, 2, 3), np.uint8)
    two_layers.set_weights([np.full_like(weight, 7.0) for weight in two_layers.get_weights()])
    estimator = _estimated(two_layers, images, epoch=3)
    shuffled = preprocess_input(images[estimator.order])
    batches = [shuffled[:3], shuffled[3:]]
    pixels = [batch.reshape(-1, 3).astype(np.float64) for batch in batches]
    means = np.mean([each.mean(axis=0) for each in pixels], axis=0)
    variances = np.mean([each.var(axis=0, ddof=1) for each in pixels], axis=0)
    _, first, _, second = two_layers.layers
    np.testing.assert_allclose(first.moving_mean, means, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, variances, rtol=1e-5)
    # each batch leaves the first layer with mean 7 and standard deviation 7
    np.testing.assert_allclose(second.moving_mean, 70.0, rtol=1e-5)
    sizes = np.array([12, 8])
    bessel = np.mean(sizes / (sizes - 1))
    np.testing.assert_allclose(second.moving_variance, 70.0**2 * bessel, rtol=1e-4)


def test_more_images_count_after_the_last_epoch(two_layers, monkeypatch):
    monkeypatch.setattr(batch_norm, "IMAGES", 4)
    monkeypatch.setattr(batch_norm, "LAST_IMAGES", 8)
    images = np.random.default_rng(1).integers(0, 256, (20, 2, 2, 3), np.uint8)
    seen = []
    monkeypatch.setattr(
        batch_norm, "preprocess_input", lambda batch: seen.append(batch) or preprocess_input(batch)
    )
    for epoch in (0, 1, 2):
        _estimated(two_layers, images, epoch, last=3)
    assert [len(batch) for batch in seen] == [4, 4, 8]
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2][:4])


def test_what_is_tested_while_kernels_harden_is_the_network_of_bits(tmp_path):
    """After one epoch of two, over which they harden: what is saved, tested and estimated anew."""
    flags = ["--precision", "w1a1", "--relaxation", "1", "--stop-after", "1"]
    run_dir = train.main([*TINY, *flags, "--run-dir", str(tmp_path / "run")])
    (row,) = callbacks.read_log(run_dir / "log.csv")
    images = data.load("digits", limit_train=256, limit_test=50)
    weights = run_dir / "weights.h5"
    model = SEResNet14(precision="w1a1", filters=(4, 8, 16), weights=weights)
    saved = [weight.numpy() for weight in model.non_trainable_weights]
    model.compile(loss="categorical_crossentropy", metrics=[callbacks.error])
    loss, error = model.evaluate(data.with_targets(data.test_batches(images), 10), verbose=0)
    assert loss == pytest.approx(row["test_loss"], abs=1e-5)
    assert error == pytest.approx(row["test_error"], abs=1e-6)
    _estimated(model, images.train[0], epoch=0)
    for before, weight in zip(saved, model.non_trainable_weights, strict=True):
        np.testing.assert_allclose(weight, before, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_goes_on_as_if_nothing_had_been_estimated(tmp_path, monkeypatch):
    """To the last bit, in all but what is tested and BatchNorm's statistics."""

    def trained(name):
        flags = ["--precision", "w1a1", "--attention", "none", "--run-dir", str(tmp_path / name)]
        run_dir = train.main([*TINY, *flags])
        images = data.load("digits", limit_train=256, limit_test=50)
        model = fitting.compiled_model(config.load(run_dir)[0], images)
        callbacks.Checkpoint(run_dir / "checkpoint", model).restore()
        return callbacks.read_log(run_dir / "log.csv"), model

    rows, model = trained("with")
    monkeypatch.setattr(batch_norm.BatchNormEstimator, "on_test_begin", lambda *_: None)
    other_rows, other = trained("without")
    for key in ("train_loss", "train_error"):
        assert [row[key] for row in rows] == [row[key] for row in other_rows]
    assert [row["test_loss"] for row in rows] != [row["test_loss"] for row in other_rows]
    for weight, same in zip(model.trainable_weights, other.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, same)
    moved = zip(model.non_trainable_weights, other.non_trainable_weights, strict=True)
    assert any(np.abs(one - two).max() > 0 for one, two in moved)
