import hashlib
import inspect
import json
import pathlib

import larq as lq
import numpy as np
import pytest

from larq_seresnet import SEResNet14, SqueezeExcite, preprocess_input, weights
from larq_seresnet.precision import EightBit
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
        assert path.stat().st_size == each["bytes"]
        assert f"{each['wrong']:,} of {each['images']:,}" in card
    assert sum(each["bytes"] for each in _shipped()) <= 250_000


def _model_of(shipped):
    """By the arguments of its run, as a user finds what ships."""
    names = inspect.signature(SEResNet14).parameters.keys() - {"input_tensor", "weights", "name"}
    arguments = shipped["run"]["arguments"]
    model = SEResNet14(**{name: arguments[name] for name in names & arguments.keys()})
    assert model.name == shipped["name"]
    return model


@pytest.mark.parametrize("shipped", _shipped(), ids=lambda shipped: shipped["name"])
def test_every_kernel_that_ships_holds_two_values(shipped):
    """As the layers compute with them, +-1 or +- one scale; and in the file one bit a weight.

    But for 8-bit ends, which take a byte.
    """
    model = _model_of(shipped)
    kernels, ends = [], []
    for layer in model.layers:
        if isinstance(layer, SqueezeExcite):
            kernels += [layer.reduce, layer.expand]
        elif isinstance(getattr(layer, "kernel_quantizer", None), EightBit):
            ends.append(layer)
        elif hasattr(layer, "kernel_quantizer"):
            kernels.append(layer)
    gated = shipped["run"]["arguments"]["attention"] is not None
    assert len(kernels) + len(ends) == 12 + 1 + 1 + 2 * 6 * gated
    assert len(ends) in (0, 2)
    for layer in kernels:
        with lq.context.quantized_scope(True):
            values = np.unique(layer.get_weights()[0])
        assert len(values) == 2
        assert values[0] == -values[1]
    one_bit, bytes_of_ends = (
        sum(layer.kernel.shape.num_elements() for layer in each) for each in (kernels, ends)
    )
    with np.load(weights.shipped_files()[f"{model.name}_cifar10"]) as file:
        assert file["bits"].size == one_bit / 8
        assert bytes_of_ends == (file["levels"].size if ends else 0)
        assert file["floats"].size == model.count_params() - one_bit - bytes_of_ends


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
@pytest.mark.parametrize(("number", "shipped"), enumerate(_shipped()))
def test_what_ships_is_wrong_on_as_many_images_as_the_card_says(number, shipped, cifar10_test):
    """All images with the default, one thousand with each of the others."""
    images, labels = cifar10_test
    model = _model_of(shipped)
    thousands = shipped["wrong_of_each_thousand"]
    assert sum(thousands) == shipped["wrong"]
    chosen = range(len(thousands)) if shipped["name"] == SEResNet14().name else [number % 10]
    for thousand in chosen:
        part = slice(1000 * thousand, 1000 * (thousand + 1))
        probabilities = model.predict(preprocess_input(images[part]), batch_size=500, verbose=0)
        assert (probabilities.argmax(axis=1) != labels[part]).sum() == thousands[thousand]
