import larq as lq
import numpy as np
import pytest

from larq_seresnet import FMB, ScaledSign, SpatialAttention, SqueezeExcite
from larq_seresnet.layers import PlaceChannels
from larq_seresnet.precision import EightBit, SumOfSigns, layers_in

import tensorflow as tf


@pytest.mark.parametrize(
    ("activation", "attention", "gates"),
    [
        ("sigmoid", [0.0, 0.25, 0.4999, 0.5, 0.5001, 1.0], [0, 0, 0, 1, 1, 1]),  # Eq. 5
        ("tanh", [-1.0, -0.5, -1e-6, 0.0, 1e-6, 1.0], [-1, -1, -1, 1, 1, 1]),  # Eq. 6
        ("hard_sigmoid", [0.0, 0.25, 0.4999, 0.5, 0.5001, 1.0], [0, 0, 0, 1, 1, 1]),
        ("hard_tanh", [-1.0, -0.5, -1e-6, 0.0, 1e-6, 1.0], [-1, -1, -1, 1, 1, 1]),
    ],
)
def test_fmb_computes_the_papers_equations(activation, attention, gates):
    received = FMB(activation)(tf.reshape(tf.constant(attention), [1, 1, 1, -1]))
    assert received.shape == (1, 1, 1, 6)
    np.testing.assert_array_equal(received.numpy().ravel(), gates)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fmb_keeps_nan_in_every_dtype(activation, dtype):
    received = tf.cast(FMB(activation, dtype=dtype)(tf.constant([np.nan, 0.9])), tf.float32).numpy()
    assert np.isnan(received[0])
    assert received[1] == 1


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_fmb_gradients(activation):
    attention = tf.constant([-0.9, 0.1, 0.5, 0.7])
    upstream = tf.constant([1.0, -2.0, 3.0, 4.0])
    gradients = {}
    for gradient in ("straight_through", "none"):
        with tf.GradientTape() as tape:
            tape.watch(attention)
            total = tf.reduce_sum(upstream * FMB(activation, gradient)(attention))
        gradients[gradient] = tape.gradient(total, attention)
    np.testing.assert_array_equal(gradients["straight_through"], upstream)
    assert gradients["none"] is None


def _by_hand(features, w0, w1, bias, activation):
    """Eq. 1-4 with loops."""
    count, height, width, channels = features.shape
    attention = np.zeros((count, channels))
    for n in range(count):
        squeezed = [features[n, :, :, c].sum() / (height * width) for c in range(channels)]
        hidden = [
            max(0.0, sum(squeezed[c] * w0[c, j] for c in range(channels)))
            for j in range(w0.shape[1])
        ]
        for c in range(channels):
            total = sum(hidden[j] * w1[j, c] for j in range(len(hidden))) + bias[c]
            attention[n, c] = ACTIVATIONS[activation](total)
    return attention


ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "hard_sigmoid": lambda x: min(max(0.2 * x + 0.5, 0), 1),
    "hard_tanh": lambda x: min(max(x, -1), 1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reduction_ratio", [1, 2, 4])
@pytest.mark.parametrize(
    ("quantizer", "gate_bias", "scales"),
    [
        (None, 1.0, None),
        ("ste_sign", None, lambda rows: 1.0),
        ("scaled_sign", 1.0, lambda rows: rows**-0.5),
        (ScaledSign(0.25), 0.5, lambda rows: 0.25),
    ],
    ids=["float", "paper", "scaled", "fixed"],
)
def test_squeeze_excite_computes_the_papers_equations(
    activation, reduction_ratio, quantizer, gate_bias, scales
):
    features = np.random.default_rng(1).normal(size=(2, 3, 5, 4)).astype(np.float32)
    layer = SqueezeExcite(
        activation, reduction_ratio, quantizer, quantizer and "weight_clip", gate_bias
    )
    received = layer(features)
    assert received.shape == layer.compute_output_shape(features.shape) == (2, 1, 1, 4)
    w0, w1 = (weight.numpy() for weight in layer.weights if "kernel" in weight.name)
    assert w0.shape == (4, 4 // reduction_ratio)
    assert w1.shape == (4 // reduction_ratio, 4)
    if scales:
        w0, w1 = (np.where(w >= 0, 1, -1) * scales(len(w)) for w in (w0, w1))
    bias = np.full(4, gate_bias or 0.0)
    expected = _by_hand(features, w0, w1, bias, activation)
    np.testing.assert_allclose(received.numpy()[:, 0, 0], expected, atol=1e-6)
    assert len(layer.weights) == (2 if gate_bias is None else 3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("quantizer", "gate_bias"), [(None, 0.5), ("scaled_sign", None)])
def test_spatial_attention_by_hand(activation, quantizer, gate_bias):
    features = np.random.default_rng(1).normal(size=(2, 3, 5, 4)).astype(np.float32)
    layer = SpatialAttention(activation, 3, quantizer, quantizer and "weight_clip", gate_bias)
    received = layer(features)
    assert received.shape == layer.compute_output_shape(features.shape) == (2, 3, 5, 1)
    kernel = layer.weights[0].numpy()
    assert kernel.shape == (3, 3, 2, 1)
    if quantizer:
        kernel = np.where(kernel >= 0, 1, -1) * (3 * 3 * 2) ** -0.5
    for n, y, x in np.ndindex(2, 3, 5):
        total = gate_bias or 0.0
        for dy, dx in np.ndindex(3, 3):
            if 0 <= y + dy - 1 < 3 and 0 <= x + dx - 1 < 5:
                pixel = features[n, y + dy - 1, x + dx - 1]
                total += kernel[dy, dx, 0, 0] * pixel.mean() + kernel[dy, dx, 1, 0] * pixel.max()
        expected = ACTIVATIONS[activation](total)
        np.testing.assert_allclose(received[n, y, x, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("quantizer", "levels"),
    [
        (SumOfSigns, [[7, -1, 3, 7], [-3, 7, 1, 5], [1, -7, -7, 1]]),
        (EightBit, [[127, -1, 42, 127], [-38, 127, 0, 79], [0, -127, -127, 16]]),
    ],
)
def test_levels_are_in_proportion_to_each_channels_greatest_weight(quantizer, levels):
    """By hand, of three weights in each of four channels; the gradient is that of the identity."""
    kernel = tf.constant([[0.5, -0.01, 0.1, 0.08], [-0.15, 1.0, 0.0, 0.05], [0, -1.0, -0.3, 0.01]])
    expected = np.array(levels, np.float32)
    np.testing.assert_array_equal(quantizer().levels(kernel), expected)
    scale = 0.2
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        values = quantizer(scale)(kernel)
    np.testing.assert_allclose(values, 2.5 / quantizer.top * scale * expected, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(values, kernel), np.full((3, 4), scale), rtol=1e-6)
    np.testing.assert_allclose(quantizer("fan_in")(kernel), values / scale / 3**0.5, rtol=1e-6)
    np.testing.assert_array_equal(quantizer().levels(values), expected)  # idempotent
    nothing = quantizer()(0 * kernel)
    np.testing.assert_array_equal(quantizer()(nothing), nothing)


def test_a_sum_of_signs_is_one_of_three_1_bit_kernels():
    found = SumOfSigns().levels(tf.linspace(-1.0, 1.0, 200)[:, tf.newaxis])
    sums = {4 * a + 2 * b + c for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)}
    assert set(found.numpy().ravel()) == sums


def test_scaled_sign_has_one_magnitude_and_the_straight_through_gradient():
    latent = tf.Variable([[0.5, -0.0, -2.0], [-0.1, 0.2, 1.0]])
    with tf.GradientTape() as tape:
        kernel = ScaledSign()(latent)
    np.testing.assert_allclose(kernel, np.array([[1, 1, -1], [-1, 1, 1]]) / np.sqrt(2), rtol=1e-6)
    clipped = np.array([[1, 1, 0], [1, 1, 1]]) / np.sqrt(2)
    np.testing.assert_allclose(tape.gradient(kernel, latent), clipped, rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        FMB("tanh", "none", name="gates"),
        SqueezeExcite("tanh", 2, "scaled_sign", "weight_clip", 0.5),
        SqueezeExcite("sigmoid", 1, ScaledSign(0.1), None, None, ["expand"]),
        SqueezeExcite(),
        SpatialAttention("hard_tanh", 5, "scaled_sign", "weight_clip", None),
        SpatialAttention(frozen=["conv"]),
        ScaledSign(np.float32(0.1), clip_value=2.0),
    ],
    ids=lambda layer: layer.name,
)
def test_config_round_trip(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config


def test_a_float32_attention_has_float32_kernels_under_mixed_precision():
    """32^-1/2 is none of bfloat16's numbers."""
    with layers_in("bfloat16"):
        layer = SqueezeExcite("sigmoid", 1, "scaled_sign", dtype="float32")
    layer.build((1, 2, 2, 32))
    with lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(layer.reduce.kernel)
    assert np.unique(np.abs(kernel)) == np.float32(32**-0.5)


def test_layers_are_registered_by_name():
    names = tf.keras.utils.get_custom_objects()
    assert names["larq_seresnet>FMB"] is FMB
    assert names["larq_seresnet>SqueezeExcite"] is SqueezeExcite
    assert names["larq_seresnet>SpatialAttention"] is SpatialAttention
    assert (names["FMB"], names["SqueezeExcite"]) == (FMB, SqueezeExcite)
    assert isinstance(lq.quantizers.get("scaled_sign"), ScaledSign)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FMB("relu"),
            r"`activation` must be one of 'sigmoid', 'tanh', .*, received 'relu'",
        ),
        (lambda: FMB(gradient="ste"), r"`gradient` must be .*'straight_through', 'none'.* 'ste'"),
        (lambda: SqueezeExcite("softmax"), r"`activation` must be .* received 'softmax'"),
        (lambda: SpatialAttention("softmax"), r"`activation` must be .* received 'softmax'"),
        (lambda: SpatialAttention(kernel_size=4), r"`kernel_size` must be .* odd .* received 4"),
        (lambda: SpatialAttention(frozen=["reduce"]), "`frozen` must be one of 'conv', received"),
        (lambda: SqueezeExcite(squeezed=0), "`squeezed` must be None or a positive .* received 0"),
        (lambda: PlaceChannels(4, [0, 0]), r"`places` must be .* ascending order, received \[0, 0"),
        (lambda: PlaceChannels(4, [1, 4]), r"from 0 to 3, .* received \[1, 4\]"),
        (lambda: PlaceChannels(4, []), r"`places` must be .* received \[\]"),
        (lambda: SqueezeExcite(frozen=["w0"]), "`frozen` must be one of 'reduce', 'expand', rec"),
        (lambda: SqueezeExcite(reduction_ratio=0), r"`reduction_ratio` .* received 0"),
        (
            lambda: SqueezeExcite(reduction_ratio=3)(np.zeros((1, 2, 2, 4))),
            r"divide .* 4, received 3",
        ),
        (lambda: ScaledSign(-1), r"`scale` must be 'fan_in' or a positive number, received -1"),
        (lambda: ScaledSign(True), r"`scale` must be .* received True"),
        (lambda: ScaledSign("fan_out"), r"`scale` must be .* received 'fan_out'"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("attention", [SqueezeExcite, SpatialAttention])
def test_quantizers_by_name_are_saved(attention, tmp_path):
    x = tf.keras.Input((4, 4, 8))
    model = tf.keras.Model(x, attention(kernel_quantizer="approx_sign")(x))
    model.save(tmp_path / "m.keras")
    assert tf.keras.models.load_model(tmp_path / "m.keras").count_params() == model.count_params()
