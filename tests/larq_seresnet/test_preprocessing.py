import numpy as np
import pytest

from larq_seresnet import decode_predictions, preprocess_input
from larq_seresnet.preprocessing import CIFAR10_CLASSES, MEAN, STD

import tensorflow as tf


def test_preprocess_input_normalises_each_channel():
    image = np.zeros((1, 2, 3), dtype=np.uint8)
    image[0, 1] = 255
    expected = [[[-m / s for m, s in zip(MEAN, STD)], [(255 - m) / s for m, s in zip(MEAN, STD)]]]
    received = preprocess_input(image)
    assert isinstance(received, np.ndarray)
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    np.testing.assert_allclose(preprocess_input(image[np.newaxis])[0], expected, rtol=1e-6)
    tensor = preprocess_input(tf.constant(image))
    assert tf.is_tensor(tensor)
    np.testing.assert_allclose(tensor, expected, rtol=1e-6)


def test_preprocess_input_takes_what_keras_loads(images):
    floats = tf.keras.utils.img_to_array(tf.keras.utils.array_to_img(images[0], scale=False))
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(preprocess_input(floats), preprocess_input(images[0]))
    np.testing.assert_allclose(
        preprocess_input(tf.constant(floats)), preprocess_input(images[0]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[[0, 0, 0]]], TypeError, "received list"),
        (np.full((2, 2, 3), 256.0), ValueError, "pixels 0..255, received 256.0 to 256.0"),
        (np.full((2, 2, 3), np.nan), ValueError, "pixels 0..255, received nan to nan"),
        (-np.ones((2, 2, 3)), ValueError, "pixels 0..255, received -1.0 to -1.0"),
        (tf.zeros((2, 2, 3), tf.int32), TypeError, "uint8 or floats, 0..255, received int32"),
        (np.zeros((2, 3), np.uint8), ValueError, r"\(N, H, W, 3\), received \(2, 3\)"),
        (np.zeros((1, 2, 2, 1), np.uint8), ValueError, r"received \(1, 2, 2, 1\)"),
        (np.zeros((1, 1, 2, 2, 3), np.uint8), ValueError, r"received \(1, 1, 2, 2, 3\)"),
    ],
)
def test_preprocess_input_refuses_other_pixels(images, error, message):
    with pytest.raises(error, match=message):
        preprocess_input(images)


def test_preprocess_input_warns_of_images_that_were_divided_already(images, recwarn):
    """Which would be black: a mistake that costs an evening."""
    preprocess_input(np.zeros((2, 2, 3)))
    preprocess_input(np.ones((2, 2, 3), np.float32))
    preprocess_input(images / 2)
    assert not recwarn
    with pytest.warns(UserWarning, match="were they divided by 255"):
        preprocess_input(images / 255)


def test_preprocess_input_refuses_a_tensor_of_unknown_rank():
    @tf.function(input_signature=[tf.TensorSpec(None, tf.uint8)])
    def normalise(images):
        return preprocess_input(images)

    with pytest.raises(ValueError, match="unknown"):
        normalise(tf.zeros((1, 2, 2, 3), tf.uint8))


def test_preprocess_input_takes_images_whose_channels_a_pipeline_does_not_know():
    """As `tf.io.decode_jpeg` gives them where it is not told."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8)])
    def normalise(image):
        return preprocess_input(image)

    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_allclose(normalise(image), preprocess_input(image), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        normalise(image[..., :1])


def test_decode_predictions():
    preds = np.zeros((2, 10))
    preds[0, [3, 5]] = 0.6, 0.4
    preds[1, 9] = 1.0
    first, second = decode_predictions(preds, top=2)
    assert first == [("cat", 0.6), ("dog", 0.4)]
    assert second[0] == ("truck", 1.0)
    assert decode_predictions(tf.constant([[0.1, 0.9]]), top=1, class_names=("no", "yes")) == [
        [("yes", pytest.approx(0.9))]
    ]
    assert len(CIFAR10_CLASSES) == 10
    assert len(decode_predictions(preds)[0]) == 5
    assert len(decode_predictions(np.ones((1, 3)) / 3, class_names="abc")[0]) == 3
    numbered = decode_predictions(preds, top=1, class_names=None)  # of weights without names
    assert [pair for (pair,) in numbered] == [("3", 0.6), ("9", 1.0)]
    with pytest.raises(ValueError, match="received"):
        decode_predictions(np.zeros(10), class_names=None)


@pytest.mark.parametrize(
    ("preds", "options", "message"),
    [
        (np.zeros(10), {}, r"`preds` .*\(N, 10\).* received \(10,\)"),
        (np.zeros((1, 3)), {}, r"received \(1, 3\)"),
        (np.zeros((1, 10)), {"top": 11}, r"`top` must be from 1 to 10, received 11"),
        (np.zeros((1, 10)), {"top": 0}, r"received 0"),
        (np.zeros((1, 10)), {"top": 3.0}, r"received 3.0"),
        (np.zeros((1, 10)), {"top": "3"}, r"received '3'"),
    ],
)
def test_decode_predictions_refuses_what_does_not_fit(preds, options, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(preds, **options)
