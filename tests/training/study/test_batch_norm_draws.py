import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.training import data
from larq_seresnet.training.study import batch_norm_draws

import tensorflow as tf


@pytest.fixture
def model():
    """Without thresholds, which the order of images in a sum would tip."""
    return SEResNet14(precision="float32", attention=None, filters=(4, 8, 16), weights=None)


@pytest.mark.slow
def test_every_way_is_tried_with_every_draw(monkeypatch, model):
    """All statistics of a set that has no more images than are taken are the same: no spread."""
    monkeypatch.setattr(batch_norm_draws, "MOVING_BATCHES", 1)
    images = data.load("digits", limit_train=64, limit_test=50)
    found = batch_norm_draws.errors(model, images, draws=2)
    assert len(found) == 2 + len(batch_norm_draws.COUNTS)
    assert all(len(errors) == 2 for errors in found.values())
    plain = [errors for way, errors in found.items() if "augmented" not in way]
    assert np.ptp(plain) == 0
    assert all(0 <= error <= 1 for errors in found.values() for error in errors)


def test_moving_averages_move(model):
    """To those of one batch a tenth of the way, from where they were."""
    images = data.load("digits", limit_train=64, limit_test=50)
    stem = model.get_layer("stem_bn")
    before = stem.moving_mean.numpy()
    batch_norm_draws.move(model, images.train[0], 64)
    maps = tf.keras.Model(model.input, stem.input)(preprocess_input(images.train[0]))
    expected = 0.9 * before + 0.1 * np.mean(maps, axis=(0, 1, 2))
    np.testing.assert_allclose(stem.moving_mean, expected, atol=1e-4)


def test_bad_arguments_are_refused(capsys):
    for flags, message in (
        (["--precision", "w2"], "`precision` must be one of"),
        (["--draws", "1"], "--draws must be at least 2, received 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            batch_norm_draws.main(flags)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
