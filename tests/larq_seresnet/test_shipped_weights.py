import hashlib
import json
import pathlib

import larq as lq
import numpy as np
import pytest

from larq_seresnet import SEResNet14, SqueezeExcite, preprocess_input, weights
from larq_seresnet.training import data

import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]


def _shipped():
    return [
        json.loads(path.read_text()) for path in sorted((ROOT / "results/weights").glob("*.json"))
    ]


def test_what_ships_is_small_and_what_the_card_says():
    assert {each["name"]: each["sha256"] for each in _shipped()} == weights.SHIPPED["cifar10"]
    card = (ROOT / "larq_seresnet/weights/README.md").read_text()
    for each in _shipped():
        path = ROOT / "larq_seresnet/weights" / each["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == each["sha256"]
        assert path.stat().st_size == each["bytes"] < 64 * 1024
        assert f"{each['wrong']:,} of {each['images']:,}" in card


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
def test_every_kernel_that_ships_holds_two_values(precision):
    """As the layers compute with them, +-1 or +- one scale; and in the file one bit a weight."""
    model = SEResNet14(precision=precision)
    kernels = []
    for layer in model.layers:
        if isinstance(layer, SqueezeExcite):
            kernels += [layer.reduce, layer.expand]
        elif hasattr(layer, "kernel_quantizer"):
            kernels.append(layer)
    assert len(kernels) == 12 + 1 + 1 + 2 * 6
    for layer in kernels:
        with lq.context.quantized_scope(True):
            values = np.unique(layer.get_weights()[0])
        assert len(values) == 2
        assert values[0] == -values[1]
    with np.load(weights.shipped_files()[f"{model.name}_cifar10"]) as file:
        assert file["bits"].size == sum(layer.kernel.shape.num_elements() for layer in kernels) / 8
        assert file["floats"].size == model.count_params() - 8 * file["bits"].size


def test_what_fits_is_loaded_for_other_classes_and_without_top(inputs):
    whole = SEResNet14()
    features = SEResNet14(include_top=False, input_shape=(None, None, 3))
    fewer = SEResNet14(num_classes=3)
    expected = tf.keras.Model(whole.input, whole.get_layer("stage3_block2_relu").output)(inputs)
    np.testing.assert_array_equal(features(inputs), expected)
    last = fewer.get_layer("stage3_block2_relu").output
    np.testing.assert_array_equal(tf.keras.Model(fewer.input, last)(inputs), expected)
    assert fewer.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"filters": (4, 8, 16)}, "seresnet14_w1_se_sigmoid_fmb_4-8-16"),
        ({"attention": None, "include_top": False}, "seresnet14_w1_no_se"),
        ({"activation": "tanh", "fmb_gradient": "none"}, "seresnet14_w1_se_tanh_fmb"),
        ({"precision": "float32"}, "seresnet14_float32_se_sigmoid_fmb"),
    ],
)
def test_configurations_that_do_not_ship_are_told_what_does(arguments, received):
    message = rf"do not ship for {received}. What ships: seresnet14_w1_se_sigmoid_fmb, .*; weights="
    with pytest.raises(ValueError, match=message):
        SEResNet14(**arguments)


def test_a_changed_file_does_not_pass_for_what_ships(monkeypatch):
    shipped = weights.SHIPPED["cifar10"]
    monkeypatch.setitem(shipped, "seresnet14_w1_se_sigmoid_fmb", "0" * 64)
    with pytest.raises(ValueError, match="its SHA-256 must be 0000"):
        SEResNet14()
    SEResNet14(precision="w1a1")  # its own file is whole


@pytest.fixture
def cifar10_test(shared):
    """Images and labels, read once."""

    def write(path):
        images, labels = data.load("cifar10", limit_train=1).test
        with open(path, "wb") as file:
            np.savez(file, images=images, labels=labels)

    try:
        with np.load(shared("cifar10_test", write)) as test:
            return test["images"], test["labels"]
    except data.DataUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("shipped", _shipped(), ids=lambda shipped: shipped["name"])
def test_what_ships_is_wrong_on_as_many_images_as_the_card_says(shipped, cifar10_test):
    images, labels = cifar10_test
    model = SEResNet14(precision=shipped["run"]["arguments"]["precision"])
    probabilities = model.predict(preprocess_input(images), batch_size=500, verbose=0)
    assert (probabilities.argmax(axis=1) != labels).sum() == shipped["wrong"]
