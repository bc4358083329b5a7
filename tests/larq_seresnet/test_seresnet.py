import copy
import inspect
import pickle

import larq as lq
import numpy as np
import pytest

from larq_seresnet import (
    FMB,
    SEResNet14,
    SEResNet14M,
    SEResNet14S,
    SEResNet14XS,
    preprocess_input,
    save_weights,
)
from larq_seresnet.export import convert
from larq_seresnet.precision import EightBit, layers_in

import tensorflow as tf

# Per layer: 1-bit values, 32-bit values. Convolutions k*k*in*out; BatchNorm 4 a channel (gamma,
# beta, mean, variance); attention C*C twice and C biases; classifier 64*10.
PARAMETERS = {
    "stem_conv": (3 * 3 * 3 * 16, 0),
    "stem_bn": (0, 4 * 16),
    "stage1_block1_1_conv": (3 * 3 * 16 * 16, 0),
    "stage1_block1_1_bn": (0, 4 * 16),
    "stage1_block1_2_conv": (3 * 3 * 16 * 16, 0),
    "stage1_block1_2_bn": (0, 4 * 16),
    "stage1_block1_se": (16 * 16 + 16 * 16, 16),
    "stage1_block2_1_conv": (3 * 3 * 16 * 16, 0),
    "stage1_block2_1_bn": (0, 4 * 16),
    "stage1_block2_2_conv": (3 * 3 * 16 * 16, 0),
    "stage1_block2_2_bn": (0, 4 * 16),
    "stage1_block2_se": (16 * 16 + 16 * 16, 16),
    "stage2_block1_1_conv": (3 * 3 * 16 * 32, 0),
    "stage2_block1_1_bn": (0, 4 * 32),
    "stage2_block1_2_conv": (3 * 3 * 32 * 32, 0),
    "stage2_block1_2_bn": (0, 4 * 32),
    "stage2_block1_se": (32 * 32 + 32 * 32, 32),
    "stage2_block2_1_conv": (3 * 3 * 32 * 32, 0),
    "stage2_block2_1_bn": (0, 4 * 32),
    "stage2_block2_2_conv": (3 * 3 * 32 * 32, 0),
    "stage2_block2_2_bn": (0, 4 * 32),
    "stage2_block2_se": (32 * 32 + 32 * 32, 32),
    "stage3_block1_1_conv": (3 * 3 * 32 * 64, 0),
    "stage3_block1_1_bn": (0, 4 * 64),
    "stage3_block1_2_conv": (3 * 3 * 64 * 64, 0),
    "stage3_block1_2_bn": (0, 4 * 64),
    "stage3_block1_se": (64 * 64 + 64 * 64, 64),
    "stage3_block2_1_conv": (3 * 3 * 64 * 64, 0),
    "stage3_block2_1_bn": (0, 4 * 64),
    "stage3_block2_2_conv": (3 * 3 * 64 * 64, 0),
    "stage3_block2_2_bn": (0, 4 * 64),
    "stage3_block2_se": (64 * 64 + 64 * 64, 64),
    "classifier": (64 * 10, 0),
    "classifier_bn": (0, 4 * 10),
}
ONE_BIT = 193_072
FLOATS = 2_120


def _kernels(model):
    """Every quantized weight by name."""
    return {
        weight.name: weight
        for weight in model.weights
        if isinstance(weight, lq.quantized_variable.QuantizedVariable)
    }


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
def test_parameters_and_memory_of_the_default_model(precision):
    model = SEResNet14(precision=precision, weights=None)
    counted = {}
    for layer in model.layers:
        if layer.weights:
            binary = sum(w.shape.num_elements() for w in _kernels(layer).values())
            counted[layer.name] = (binary, layer.count_params() - binary)
    assert counted == PARAMETERS
    assert sum(bits for bits, _ in counted.values()) == ONE_BIT
    assert sum(floats for _, floats in counted.values()) == FLOATS
    assert ONE_BIT / 8 == 24_134  # bytes of bits
    assert FLOATS * 4 == 8_480  # bytes of float32


def test_layer_names_are_a_contract(small_model):
    expected = {name for name in PARAMETERS} | {"image", "stem_relu", "avg_pool", "predictions"}
    blocks = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
    for block in blocks:
        expected |= {f"{block}_{part}" for part in ("1_relu", "fmb", "gate", "add", "relu")}
    for block in ("stage2_block1", "stage3_block1"):
        expected |= {f"{block}_shortcut", f"{block}_shortcut_pool"}
    assert {layer.name for layer in small_model().layers} == expected
    binary = {layer.name for layer in small_model(precision="w1a1").layers}
    for block in blocks:
        expected -= {f"{block}_{part}" for part in ("add", "relu")}
        expected |= {f"{block}_{part}" for part in ("1_add", "2_relu", "2_add")}
    assert binary == expected - {"stem_relu"}


def test_names_of_models():
    def name(**arguments):
        return SEResNet14(**arguments, weights=None).name

    assert name() == "seresnet14_w1_se_sigmoid_fmb"
    assert name(precision="float32", activation="tanh", fmb=False) == "seresnet14_float32_se_tanh"
    assert (
        name(
            attention="se_paper",
            fmb_gradient="none",
            reduction_ratio=4,
            shortcut="conv",
            head="bias",
            filters=(4, 8, 12),
        )
        == "seresnet14_w1_se_paper_sigmoid_fmb_no_gradient_r4_conv_shortcut_bias_head_4-8-12"
    )
    s = {"filters": (32, 48, 48), "ends": "int8"}
    assert name(**s) == "seresnet14_w1_se_sigmoid_fmb_int8_ends_32-48-48"
    assert name(**s, reduction_ratio=4, fmb=False) == "seresnet14s_w1_se_sigmoid"
    assert name(**s, attention=None) == "seresnet14s_w1_no_se"
    assert name(**s, reduction_ratio=4, precision="float32").startswith("seresnet14s_float32_se_")
    assert name(**s, reduction_ratio=4, precision="w1a1").endswith("_r4_int8_ends_32-48-48")
    without = {"attention": None, "activation": "tanh", "fmb": True, "fmb_gradient": "none"}
    assert name(**without, precision="w1a1", include_top=False) == "seresnet14_w1a1_no_se_no_top"


@pytest.mark.parametrize(
    ("size", "filters"),
    [(SEResNet14XS, (16, 32, 32)), (SEResNet14S, (32, 48, 48)), (SEResNet14M, (32, 64, 80))],
)
def test_sizes_fix_widths_and_ends_and_take_all_else(size, filters):
    arguments = {"num_classes": 3, "precision": "w1a1", "weights": None}
    model = size(**arguments, name="own")
    same = SEResNet14(filters=filters, ends="int8", reduction_ratio=4, shift=True, **arguments)
    assert model.configuration == same.configuration
    assert (model.name, same.name) == ("own", f"{size.__name__.lower()}_w1a1_se_sigmoid_fmb")
    for fixed in ({"filters": (4, 8, 16)}, {"ends": None}, {"reduction_ratio": 4}, {"shift": 0}):
        (name,) = fixed
        with pytest.raises(TypeError, match=f"`{name}` is .* in {size.__name__}, received "):
            size(weights=None, **fixed)
    known = inspect.signature(size).parameters
    assert {"precision", "weights", "include_top"} <= set(known)
    assert "filters" not in known


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
@pytest.mark.parametrize(
    ("attention", "of_attention"),
    [("se", 12), ("se_paper", 12), ("spatial", 6), ("cbam", 18), (None, 0)],
)
def test_every_kernel_holds_two_values(small_model, precision, attention, of_attention):
    model = small_model(precision=precision, attention=attention)
    kernels = _kernels(model)
    assert len(kernels) == sum("kernel" in weight.name for weight in model.weights)
    assert len(kernels) == 1 + 12 + 1 + of_attention
    for name, kernel in kernels.items():
        with lq.context.quantized_scope(True):
            values = np.unique(tf.convert_to_tensor(kernel))
        assert len(values) == 2, name
        assert values[0] == -values[1], name
    assert not _kernels(small_model(precision="float32"))


def test_w1a1_convolves_nothing_but_plus_and_minus_one(small_model, inputs):
    model = small_model(precision="w1a1")
    convolutions = [
        layer for layer in model.layers if getattr(layer, "input_quantizer", None) is not None
    ]
    assert len(convolutions) == 12
    assert all(layer.pad_values == 1.0 for layer in convolutions)
    probe = tf.keras.Model(model.input, [layer.input for layer in convolutions])
    maps = probe(inputs, training=True)  # BatchNorm by the statistics of these images
    for layer, values in zip(convolutions, maps):
        signs = layer.input_quantizer(values).numpy()
        assert set(np.unique(signs)) == {-1.0, 1.0}, f"{layer.name} sees a constant"


def test_attention_none_ignores_what_configures_the_gate():
    model = SEResNet14(
        attention=None, activation="relu", fmb_gradient="?", reduction_ratio=7, weights=None
    )
    assert model.name == "seresnet14_w1_no_se"
    spatial = SEResNet14(attention="spatial", reduction_ratio=7, weights=None)
    assert spatial.name == "seresnet14_w1_spatial_sigmoid_fmb"


def test_cbam_gates_channels_then_positions(small_model, inputs):
    """F'' = M'_s * (M'_c * F), with M'_s of what the channels' gates let through."""
    model = small_model(attention="cbam")
    block = "stage2_block1"
    names = ("2_bn", "fmb", "gate", "spatial", "spatial_fmb", "spatial_gate")
    layers = [model.get_layer(f"{block}_{name}") for name in names]
    bn, channels, between, attention, positions, gated = (
        each.numpy()
        for each in tf.keras.Model(model.input, [layer.output for layer in layers])(inputs)
    )
    assert (channels.shape[1:], positions.shape[1:]) == ((1, 1, 8), (16, 16, 1))
    np.testing.assert_array_equal(between, channels * bn)
    np.testing.assert_array_equal(attention, layers[3](between))
    np.testing.assert_array_equal(positions, attention >= 0.5)
    np.testing.assert_array_equal(gated, positions * between)
    alone = [layer.name for layer in small_model(attention="spatial").layers]
    assert f"{block}_spatial_gate" in alone
    assert not any(name.endswith("_se") or name == f"{block}_gate" for name in alone)


@pytest.mark.parametrize("precision", ["float32", "w1", "w1a1"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_top_any_size_and_channels(precision, channels):
    model = SEResNet14(
        include_top=False,
        input_shape=(None, None, channels),
        precision=precision,
        filters=(4, 8, 16),
        weights=None,
    )
    assert model.output_shape == (None, None, None, 16)
    assert model(np.zeros((2, 40, 24, channels), np.float32)).shape == (2, 10, 6, 16)


def test_output_is_probabilities_in_float32(small_model, inputs):
    for model in (small_model(num_classes=7), small_model(precision="w1a1", activation="tanh")):
        probabilities = model(inputs)
        assert probabilities.shape == (8, model.output_shape[-1])
        assert probabilities.dtype == tf.float32
        np.testing.assert_allclose(np.sum(probabilities, axis=1), 1.0, rtol=1e-5)


def test_a_layer_that_raises_leaves_latent_weights_what_they_are():
    """Larq's scope stayed on, and optimizers stored signs from then on."""
    model = SEResNet14(filters=(4, 8, 16), weights=None)
    layer = model.get_layer("stage1_block1_1_conv")
    with pytest.raises(ValueError, match="incompatible"):
        layer(tf.zeros((1, 32, 32, 5)))
    with pytest.raises(KeyboardInterrupt), lq.context.quantized_scope(True):
        raise KeyboardInterrupt
    assert not lq.context.should_quantize()

    def interrupted(*_):
        raise KeyboardInterrupt

    layer.convolution_op = interrupted
    with pytest.raises(KeyboardInterrupt):
        model(tf.zeros((1, 32, 32, 3)))
    assert not lq.context.should_quantize()


def test_input_tensor_is_honoured(inputs):
    source = tf.keras.layers.Input((32, 32, 3))
    model = SEResNet14(input_tensor=source * 2.0, filters=(4, 8, 16), weights=None)
    assert model.input is source
    twice = SEResNet14(filters=(4, 8, 16), weights=None)
    twice.set_weights(model.get_weights())
    np.testing.assert_allclose(model(inputs), twice(inputs * 2.0), atol=1e-6)
    with pytest.raises(ValueError, match=r"`input_shape` .* \(32, 32, 3\), received \(16, 16, 3\)"):
        SEResNet14(input_tensor=source, input_shape=(16, 16, 3), weights=None)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_under_mixed_precision_the_weights_and_probabilities_stay_float32(inputs, dtype):
    with layers_in(dtype.name):
        model = SEResNet14(filters=(4, 8, 16), weights=None)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert {weight.dtype for weight in model.weights} == {tf.float32}
    assert model.get_layer("stage3_block2_2_conv").output.dtype == dtype
    assert model.get_layer("stage3_block2_gate").output.dtype == dtype
    assert model(inputs).dtype == tf.float32


@pytest.mark.parametrize(
    ("setter", "value", "usual", "message"),
    [
        (
            tf.keras.backend.set_image_data_format,
            "channels_first",
            "channels_last",
            "`image_data_format` must be 'channels_last', received 'channels_first'",
        ),
        (
            tf.keras.backend.set_floatx,
            "float16",
            "float32",
            "`floatx` must be 'float32', received 'float16'",
        ),
        (
            tf.keras.backend.set_floatx,
            "float64",
            "float32",
            "`floatx` must be 'float32', received 'float64'",
        ),
        (
            tf.keras.mixed_precision.set_global_policy,
            "float64",
            "float32",
            "`mixed_precision.global_policy` must be 'float32' or .* received 'float64'",
        ),
    ],
)
def test_keras_settings_that_do_not_fit_are_refused(setter, value, usual, message, small_model):
    """Where a network is built, and where one of before is converted."""
    model = small_model()
    setter(value)
    try:
        for use in (lambda: SEResNet14(weights=None), lambda: convert.to_tflite(model, "litert")):
            with pytest.raises(ValueError, match=f"Keras's setting {message}"):
                use()
    finally:
        setter(usual)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        pytest.param("saved_model", "w1a1", marks=pytest.mark.slow),  # of w1: test_saved_models
        *(
            (kind, precision)
            for kind in ("model.h5", "model.keras")
            for precision in ("w1", "w1a1")
        ),
    ],
)
def test_save_and_load(tmp_path, inputs, kind, precision, small_model):
    arguments = {"precision": precision, "attention": "cbam" if precision == "w1a1" else "se"}
    model = small_model(**arguments)
    model.save(tmp_path / kind)
    loaded = tf.keras.models.load_model(tmp_path / kind)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    for expected, received in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)
    save_weights(loaded, tmp_path / "again.npz", packed=True)
    again = SEResNet14(**arguments, filters=(4, 8, 16), weights=tmp_path / "again.npz")
    np.testing.assert_array_equal(again(inputs), model(inputs))


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        ("sum3", "model.h5"),
        ("sum3", "weights.npz"),
        ("int8", "model.keras"),
        ("int8", "weights.npz"),
        ("int8", "weights.h5"),
    ],
)
def test_other_ends_shifts_and_widths_come_back(tmp_path, inputs, kind, ends, small_model):
    arguments = {"precision": "w1a1", "ends": ends, "shift": True, "filters": (4, 6, 10)}
    model = small_model(**arguments)
    path = tmp_path / kind
    if kind.startswith("model"):
        model.save(path)
        loaded = tf.keras.models.load_model(path)
    else:
        save_weights(model, path, packed=kind.endswith("npz"))
        loaded = SEResNet14(**arguments, weights=path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_ends_compute_in_float32_under_any_policy():
    """Where a fifth of 8-bit levels were others in bfloat16."""
    with layers_in("bfloat16"):
        model = SEResNet14(filters=(4, 8, 16), ends="int8", weights=None)
    assert model.get_layer("stem_bn").compute_dtype == "bfloat16"
    kernel = model.get_layer("stem_conv").kernel
    with lq.context.quantized_scope(True):
        used = tf.convert_to_tensor(kernel)
    latent = model.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_array_equal(used, EightBit()(latent))
    assert used.dtype == tf.float32


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, tf.keras.models.clone_model, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "clone", "pickle"],
)
def test_copies_know_what_they_are(duplicate, small_model):
    model = small_model(num_classes=3)
    assert duplicate(model).configuration == model.configuration


def test_a_trained_model_goes_on_after_it_was_loaded(tmp_path, images):
    """With its optimizer, to the same weights as without the break."""
    labels = np.arange(8) % 10
    model = SEResNet14(filters=(4, 8, 16), weights=None)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.train_on_batch(preprocess_input(images), labels)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.train_on_batch(preprocess_input(images), labels)
    for expected, received in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-6)


def test_gates_under_mixed_precision_are_those_of_float32(small_model):
    """An attention value just below its threshold, where bfloat16 has nothing but the threshold."""
    with layers_in("bfloat16"):
        mixed = SEResNet14(filters=(4, 8, 16), weights=None)
    for model in (mixed, small_model()):
        attention, fmb = (model.get_layer(f"stage1_block1_{part}") for part in ("se", "fmb"))
        before = attention.get_weights()
        nothing_passes, any_sign = np.full((4, 4), -0.1), np.full((4, 4), 0.1)
        for argument, gate in ((-1e-3, 0.0), (1e-3, 1.0)):
            attention.set_weights([nothing_passes, any_sign, np.full(4, argument)])
            gates = fmb(attention(tf.ones((1, 8, 8, 4), tf.bfloat16)))
            np.testing.assert_array_equal(tf.cast(gates, tf.float32), np.full((1, 1, 1, 4), gate))
        attention.set_weights(before)


def test_pooling_without_top(small_model, inputs):
    maps = small_model(include_top=False)(inputs).numpy()
    for pooling, expected in (("avg", maps.mean(axis=(1, 2))), ("max", maps.max(axis=(1, 2)))):
        model = SEResNet14(filters=(4, 8, 16), include_top=False, pooling=pooling, weights=None)
        model.set_weights(small_model(include_top=False).get_weights())
        np.testing.assert_allclose(model(inputs), expected, rtol=1e-5)


def test_models_of_one_kind_can_stand_in_one_graph(inputs):
    source = tf.keras.layers.Input((32, 32, 3))
    members = [SEResNet14(filters=(4, 8, 16), weights=None, name=name) for name in "ab"]
    ensemble = tf.keras.Model(source, sum(member(source) for member in members) / 2)
    np.testing.assert_allclose(
        ensemble(inputs), (members[0](inputs) + members[1](inputs)) / 2, atol=1e-6
    )


def test_config_round_trip(small_model, inputs):
    model = small_model()
    again = tf.keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(inputs), model(inputs))


@pytest.mark.parametrize(
    ("precision", "attention"),
    [("float32", "se"), ("w1", "se"), ("w1a1", "se"), ("w1", "cbam"), ("w1a1", "spatial")],
)
def test_every_weight_learns(precision, attention, inputs):
    """No weight is cut off from the loss: each gets a gradient, but for the paper's own FMB."""
    arguments = {"precision": precision, "attention": attention, "filters": (4, 8, 16)}
    model = SEResNet14(**arguments, weights=None)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs, training=True)[:, 0])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.any(gradient) for gradient in gradients)
    literal = SEResNet14(**arguments, fmb_gradient="none", weights=None)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(literal(inputs, training=True)[:, 0])
    gradients = tape.gradient(loss, literal.trainable_variables)
    cut_off = {
        weight.name.split("/")[0]
        for weight, gradient in zip(literal.trainable_variables, gradients)
        if gradient is None
    }
    parts = {"se": ["se"], "spatial": ["spatial"], "cbam": ["se", "spatial"]}[attention]
    assert cut_off == {
        f"stage{stage}_block{block}_{part}"
        for stage in (1, 2, 3)
        for block in (1, 2)
        for part in parts
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "w2"}, "`precision` must be one of 'float32', 'w1', 'w1a1', received 'w2'"),
        ({"activation": "relu"}, "`activation` must be one of .* received 'relu'"),
        (
            {"attention": "scse"},
            "`attention` must be one of .*'spatial', 'cbam', None, received 'scse'",
        ),
        ({"fmb_gradient": "ste"}, "`fmb_gradient` must be one of .* received 'ste'"),
        ({"fmb": "yes"}, "`fmb` must be one of True, False, received 'yes'"),
        ({"reduction_ratio": 3}, "divides the gated channels of all blocks, .*, received 3"),
        ({"reduction_ratio": 32}, "received 32"),
        ({"filters": (16, 32)}, r"`filters` must be three positive integers, received \(16, 32\)"),
        ({"filters": 16}, "received 16"),
        ({"ends": "int4"}, "`ends` must be one of None, 'sum3', 'int8', received 'int4'"),
        ({"gate_at": "start"}, "`gate_at` must be one of 'end', 'middle', received 'start'"),
        ({"inner": (16, 16)}, r"`inner` must be six positive integers, received \(16, 16\)"),
        ({"inner": (0, 1, 1, 1, 1, 1)}, "`inner` must be six positive integers, received"),
        (
            {"inner": (8,) * 6, "precision": "w1a1"},
            '`inner` must be None for precision "w1a1", .* received',
        ),
        (
            {"inner": (3,) * 6, "gate_at": "middle", "reduction_ratio": 2},
            "`reduction_ratio` must .* divides the gated channels",
        ),
        ({"outer": ((0,),) * 5}, "`outer` must be, for each of the six blocks, .* received"),
        ({"outer": ((1, 0),) * 6}, "`outer` must be, for each of the six blocks, .* received"),
        ({"outer": ((0, 16),) * 6}, "`outer` must be, for each of the six blocks, .* received"),
        ({"outer": ((),) * 6}, "`outer` must be, for each of the six blocks, .* received"),
        ({"outer": (([0],),) * 6}, "`outer` must be, for each of the six blocks, .* received"),
        ({"outer": ((0, 0),) * 6}, "`outer` must be, for each of the six blocks, .* received"),
        (
            {"squeezed": (0,) * 6},
            "`squeezed` must be six integers, 0 or more and not all .* received",
        ),
        ({"squeezed": (-1,) * 6}, "`squeezed` must be six integers, 0 or more"),
        ({"shortcut": "max"}, "`shortcut` must be one of 'pool', 'conv', received 'max'"),
        ({"pooling": "sum", "include_top": False}, "`pooling` must be one of None, 'avg', 'max'"),
        ({"pooling": "avg"}, "`pooling` is for include_top=False, received 'avg' with top"),
        ({"reduction_ratio": True}, "received True"),
        ({"head": None}, "`head` must be one of 'norm', 'bias', received None"),
        ({"num_classes": 0}, "`num_classes` must be an integer, 2 or more, .* received 0"),
        ({"num_classes": 1}, "`num_classes` must be an integer, 2 or more, .* received 1"),
        ({"num_classes": None}, "`num_classes` .* received None"),
        ({"input_shape": (32, 32)}, r"`input_shape` .* received \(32, 32\)"),
        ({"input_shape": (None, None, 3)}, r"received \(None, None, 3\)"),
        ({"input_shape": (None, None, None), "include_top": False}, "height and width may be None"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "`input_tensor` must be a Keras tensor"),
        (
            {"input_tensor": tf.keras.Input((32, 32, 3), dtype="uint8")},
            "`input_tensor` must be of floats, as `preprocess_input` returns them, received uint8",
        ),
        ({"precision": ["w1"]}, r"`precision` must be one of .* received \['w1'\]"),
        ({"input_shape": 32}, r"`input_shape` must have the shape .* received \(32,\)"),
        ({"weights": 3}, "`weights` must be None, 'cifar10', or the path .* received '3'"),
        (
            {"weights": "imagenet"},
            "`weights` must be None, 'cifar10', or the path .* received 'imagenet'",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SEResNet14(**{"weights": None, **arguments})


def test_keras_shapes_are_shapes():
    source = tf.keras.layers.Input((8, 9, 3))
    for more in ({}, {"input_tensor": source}):
        shape = source.shape[1:]
        model = SEResNet14(filters=(4, 4, 4), input_shape=shape, weights=None, **more)
        assert model.input_shape == (None, 8, 9, 3)


def test_shortcuts_by_hand():
    """2x2 pixels become their mean, its channels are repeated; a 1x1 convolution has weights."""
    maps = np.random.default_rng(0).normal(size=(2, 32, 32, 4)).astype(np.float32)
    mean = maps.reshape(2, 16, 2, 16, 2, 4).mean(axis=(2, 4))
    for channels in (3, 6, 8, 11):
        model = SEResNet14(filters=(4, channels, channels), weights=None)
        pooled = tf.keras.Model(
            model.get_layer("stage1_block2_relu").output,
            model.get_layer("stage2_block1_shortcut").output,
        )
        expected = np.concatenate([mean] * 3, axis=-1)[..., :channels]
        np.testing.assert_allclose(pooled(maps), expected, atol=1e-6)
    names = {layer.name for layer in model.layers}
    assert "stage3_block1_shortcut_pool" in names  # channels stay, so nothing is repeated
    assert "stage3_block1_shortcut" not in names
    convolved = SEResNet14(filters=(4, 8, 12), shortcut="conv", weights=None)
    assert convolved.get_layer("stage3_block1_shortcut_conv").kernel.shape == (1, 1, 8, 12)


def test_numpy_numbers_are_numbers():
    labels = np.array([0, 6])
    model = SEResNet14(num_classes=labels.max() + 1, filters=(4, 8, 16), weights=None)
    assert model.output_shape == (None, 7)
    ratio = np.array([2])[0]
    model = SEResNet14(reduction_ratio=ratio, filters=(4, 8, 16), weights=None)
    assert model.get_layer("stage1_block1_se").get_config()["reduction_ratio"] == 2


@pytest.mark.parametrize("attention", ["se", "cbam"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_no_negative_zero_reaches_a_sign(small_model, inputs, activation, attention):
    """LCE's packer on ARM takes -0.0 for -1, larq and x86 for +1."""
    model = small_model(precision="w1a1", activation=activation, attention=attention)
    signs = [
        layer.input
        for layer in model.layers
        if getattr(layer, "input_quantizer", None) is not None or isinstance(layer, FMB)
    ]
    for values in tf.keras.Model(model.input, signs)(inputs):
        assert not np.any((values.numpy() == 0) & np.signbit(values.numpy()))


def test_arguments_are_keyword_only():
    with pytest.raises(TypeError):
        SEResNet14((32, 32, 3))


def test_a_control_has_float_attention_in_a_1_bit_network(small_model):
    model = small_model(attention="se_float32")
    float_kernels = [
        weight.name
        for weight in model.trainable_weights
        if "kernel" in weight.name and weight.name not in _kernels(model)
    ]
    assert len(float_kernels) == 12
    assert all("_se/" in name for name in float_kernels)
    assert not any("_se/" in name and "bias" in name for name in (w.name for w in model.weights))
