import numpy as np
import pytest

from larq_seresnet.export import inference, roundings
from larq_seresnet.training import data

import tensorflow as tf


def test_rounding_by_hand():
    """255 steps from -1 to 1.55 are 0.01 each; what lies beyond becomes the end."""
    values = np.array([-1.234, 0.0, 0.004, 0.006, 1.0, 9.0], np.float32)
    expected = [-1.0, 0.0, 0.0, 0.01, 1.0, 1.55]
    rounded = inference.round_within(tf.constant(values), -1.0, 1.55)
    np.testing.assert_allclose(rounded, expected, atol=1e-6)
    np.testing.assert_array_equal(inference.round_within(tf.zeros(3), 0.0, 0.0), 0.0)


def test_ranges_by_hand():
    values = np.zeros((4, 2, 2, 2), np.float32)
    values[..., 0], values[0, 0, 0] = 3.0, [-1.0, 5.0]
    assert roundings.extremes(values) == (-1.0, 5.0)
    low, high = roundings.extremes(values, by_channel=True)
    np.testing.assert_array_equal([low, high], [[-1, 0], [3, 5]])
    rare = np.concatenate([np.random.default_rng(0).uniform(0, 1, 1_000_000), [3.0]])
    low, high = roundings.least_squares(rare.astype(np.float32))
    assert low == 0
    assert 0.95 < high < 1.2  # the one value of 3 is not worth coarser steps for all


@pytest.mark.slow
def test_kinds_are_rounded_alone_and_together(trained_model):
    if not roundings.pack_tflm.is_for(trained_model()):
        pytest.skip("no tflite-micro of the tested build: pip install '.[tflm]' brings it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roundings, "CALIBRATION", 50)
        images = data.load("digits", limit_train=120, limit_test=50)
        rows = roundings.measure(trained_model(), images)
    titles = [title for title, *_ in rows]
    assert set(titles[:6]) == {*roundings.KINDS, "logits"}
    moved = {title: moved for title, _, moved in rows}
    assert all(0 < each < 0.05 for each in moved.values())
    assert moved["all of them"] > max(moved[title] for title in titles[:6]) / 2
    assert all(same > 0.8 for _, same, _ in rows)
