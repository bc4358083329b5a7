import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.export import anatomy, convert, flatbuffer, half, verify
from larq_seresnet.layers import SqueezeExcite
from larq_seresnet.training import data

import tensorflow as tf


def _random(images=None, **arguments):
    """A model whose scales and biases are not the initial ones, some of them small.

    With images its BatchNorms know their maps: probabilities are far from 0 and 1.
    """
    model = SEResNet14(filters=(4, 8, 16), weights=None, **arguments)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.shape.rank == 1:
            weight.assign(generator.uniform(0.01, 1.5, weight.shape))
    if images is not None:
        for layer in model.layers:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(preprocess_input(images), training=True)
    return model


def test_batch_norm_by_hand():
    model = _random()
    layer, received = (
        each.get_layer("stage2_block1_1_bn") for each in (model, half.rounded(model))
    )
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in layer.get_weights())
    scale = (gamma / np.sqrt(variance + 0.001)).astype(np.float16).astype(np.float64)
    offset = (beta - mean * scale).astype(np.float16).astype(np.float64)
    x = np.linspace(-2, 2, 3 * 8, dtype=np.float32).reshape(1, 1, 3, 8)
    np.testing.assert_array_equal(received(x), (x * scale + offset).astype(np.float32))
    assert np.abs(received(x) - layer(x)).max() > 0


@pytest.mark.parametrize(
    ("count", "arguments"),
    [
        (2 * 116 + 56 + 2 * 10, {}),  # scales and biases of stem and blocks, gates, classifier
        (
            # 8-bit ends keep scales of their own, hard_sigmoid's slope is in the gates' biases
            112 + 116 + 10,
            {
                "attention": "cbam",
                "activation": "hard_sigmoid",
                "fmb": False,
                "ends": "int8",
                "reduction_ratio": 2,
            },
        ),
    ],
    ids=["default", "other"],
)
def test_what_is_stored_are_the_rounded_numbers(count, arguments, images):
    """In both runtimes; what they compute is what Keras computes with the same numbers."""
    model = _random(images, **arguments)
    inputs = preprocess_input(images)
    expected = half.rounded(model).predict(inputs, verbose=0)
    assert np.abs(expected - model.predict(inputs, verbose=0)).max() > 1e-4
    for runtime in ("lce", "litert"):
        converted = convert.to_tflite(model, runtime, "1bit_half", strip=True)
        np.testing.assert_allclose(converted.predict(inputs), expected, rtol=0, atol=5e-5)
        content = flatbuffer.read(converted.tflite)
        numbers = [
            flatbuffer.constant(content, index)
            for index, tensor in enumerate(content.subgraphs[0].tensors)
            if tensor.type == flatbuffer.schema.TensorType.FLOAT16
        ]
        assert sum(each.size for each in numbers) == count
        assert len(numbers) == len({each.shape[1:] for each in numbers})


@pytest.mark.parametrize("runtime", ["lce", "litert"])
def test_gates_at_exactly_0_are_those_of_the_rounded_model(images, runtime):
    """Of bias 0: the next greater number, which opens them, is no float16 one."""
    model = _random(images, squeezed=(1,) * 6)
    for layer in model.layers:
        if isinstance(layer, SqueezeExcite):
            bias = layer.expand.bias
            bias.assign(np.where(np.arange(bias.shape[0]) % 2, bias, 0))
    inputs = preprocess_input(images)
    expected = half.rounded(model).predict(inputs, verbose=0)
    converted = convert.to_tflite(model, runtime, "1bit_half", strip=True)
    np.testing.assert_allclose(converted.predict(inputs), expected, rtol=0, atol=5e-5)


def _of_several_numbers(content):
    """The float32 biases and scales of filters in a file that are not one number each."""
    filters = {id(each) for each in anatomy.unpacking(content)}
    found = []
    for each in content.subgraphs[0].operators:
        name = flatbuffer.operator_name(content, each)
        if name in ("CONV_2D", "FULLY_CONNECTED") or (name == "MUL" and id(each) in filters):
            found += [
                flatbuffer.constant(content, index) for index in each.inputs[1:] if index >= 0
            ]
    return [each for each in found if each is not None and each.dtype == "f4" and each.size > 1]


def test_small_scales_are_halves_too(stored):
    """Of a trained network: converters compute them with an error of their own."""
    for runtime in ("lce", "litert"):
        content = flatbuffer.read(stored("w1", runtime, "1bit_half").tflite)
        assert not _of_several_numbers(content)
        assert _of_several_numbers(flatbuffer.read(stored("w1", runtime).tflite))
    scale = np.nextafter(np.float16(0.0247).astype(np.float32), np.float32(1))
    assert half._are_halves(scale.reshape(1))
    assert not half._are_halves(scale.reshape(1) * np.float32(1.0001))


def test_a_file_is_compared_with_the_rounded_model_and_the_model(stored, trained_model, trained):
    """And no rounding passes that is another's."""
    converted, model = stored(weights="1bit_half"), trained_model()
    images, labels = data.load("digits", limit_test=100).test
    found = verify.compare(model, converted, images, labels)
    assert not found.failures()
    assert found.argmax_agreement == 1
    assert 0.97 <= found.half_agreement <= 1
    predicted = model.predict(preprocess_input(images), verbose=0).argmax(axis=1)
    assert found.half_error == pytest.approx((predicted != labels).mean())
    assert verify.compare(model, stored(), images, labels).half_agreement is None
    other = SEResNet14(filters=(4, 8, 16), weights=trained("w1") / "weights.h5")
    other.get_layer("stem_bn").gamma.assign(other.get_layer("stem_bn").gamma * 1.01)
    assert verify.compare(other, converted, images, labels).failures()


def test_what_float16_has_not_is_refused():
    model = _random()
    model.get_layer("stage1_block1_1_bn").beta.assign([2e6, 0, 0, 0])
    with pytest.raises(
        ValueError, match=r"needs scales and biases below 65504, received [12]\d{6}:"
    ):
        half.rounded(model)


def test_what_diverged_or_vanishes_is_refused():
    model = _random()
    layer = model.get_layer("stage2_block1_1_bn")
    layer.gamma.assign([1e-9] * 8)
    with pytest.raises(ValueError, match="stage2_block1_1_bn has smaller ones: use 1bit"):
        half.rounded(model)
    layer.gamma.assign([np.nan] * 8)
    with pytest.raises(ValueError, match="NaN or infinity: the model diverged"):
        half.rounded(model)


def test_a_bias_without_batch_norm_is_rounded_too():
    model = _random(head="bias")
    bias = half.rounded(model).get_layer("classifier").bias.numpy()
    expected = model.get_layer("classifier").bias.numpy().astype(np.float16)
    np.testing.assert_array_equal(bias, expected.astype(np.float32))


def test_layers_before_the_stem_are_left_alone():
    image = tf.keras.layers.Input((32, 32, 3))
    given = tf.keras.layers.BatchNormalization(scale=False)(image)
    model = SEResNet14(filters=(4, 8, 16), input_tensor=given, weights=None)
    received, expected = (each.layers[1].get_weights() for each in (half.rounded(model), model))
    np.testing.assert_array_equal(received, expected)


def test_binary_convolutions_are_refused(small_model, trained, capsys):
    with pytest.raises(ValueError, match="--weights 1bit_half is not for 1-bit activations"):
        convert.to_tflite(small_model(precision="w1a1"), "litert", "1bit_half")
    with pytest.raises(SystemExit) as stop:
        convert.main([str(trained("w1a1")), "--weights", "1bit_half"])
    assert stop.value.code == 2
    assert "--weights 1bit_half is not for 1-bit activations" in capsys.readouterr().err


def test_the_models_own_weights_stay(trained_model):
    model = trained_model()
    before = [weight.copy() for weight in model.get_weights()]
    copy = half.rounded(model)
    assert copy.configuration == model.configuration
    for weight, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert not any(
        np.array_equal(a, b)
        for layer in model.layers
        if isinstance(layer, tf.keras.layers.BatchNormalization)
        for a, b in zip(
            layer.get_weights()[2:], copy.get_layer(layer.name).get_weights()[2:], strict=True
        )
    )
