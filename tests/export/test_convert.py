import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from larq_seresnet import SEResNet14, save_weights
from larq_seresnet.export import (
    anatomy,
    convert,
    flatbuffer,
    form,
    inference,
    pack,
    verify,
)
from larq_seresnet.layers import FMB, SqueezeExcite
from larq_seresnet.precision import layers_in
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.seresnet import SEResNet
from larq_seresnet.training import data

import tensorflow as tf
from tensorflow.lite.python import convert_phase, lite

FLOAT_RUNTIMES = ("lce", "litert")  # `test_pack_tflm` is about the other one
#: Of filters (4, 8, 16), what pruning may leave of each branch.
OUTER = ((0, 1, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2, 5, 6, 7), tuple(range(16)), (0, 1, 15))
TARGETS = [
    (precision, runtime, each.weights, each.memory)
    for precision in ("w1", "w1a1")
    for runtime in FLOAT_RUNTIMES
    for each in form.forms(runtime)
    if precision == "w1" or each.weights != "1bit_half"
]


@pytest.mark.parametrize(("precision", "runtime", "weights", "memory"), TARGETS)
def test_every_file_computes_what_keras_computes(
    trained_model, stored, precision, runtime, weights, memory
):
    """After real training steps, on test images and on noise, by code that is not verify.py's."""
    model = convert.as_stored(trained_model(precision), weights)
    converted = stored(precision, runtime, weights, memory=memory)
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    for images in (data.load("digits", limit_test=100).test[0], noise):
        inputs = preprocess_input(images)
        expected, received = model.predict(inputs, verbose=0), converted.predict(inputs)
        difference = np.abs(expected - received).max(axis=1)
        if (precision, weights) == ("w1", "int8"):
            assert np.median(difference) < 0.02
        else:
            assert np.median(difference) < 1e-5
            assert precision == "w1a1" or difference.max() < 1e-4
            assert (expected.argmax(axis=1) == received.argmax(axis=1)).mean() > 0.98


def test_files_shrink_with_their_filters(trained_model, stored):
    sizes = [
        len(stored("w1", "litert", weights, memory=memory).tflite)
        for precision, runtime, weights, memory in TARGETS
        if (precision, runtime) == ("w1", "litert") and memory != "least"
    ]
    assert sizes == sorted(sizes)
    kernels = sum(np.size(w) for w in trained_model().trainable_weights if len(w.shape) > 1)
    assert sizes[-1] - sizes[0] > kernels * (4 - 1 / 8) - 5000


@pytest.mark.parametrize("runtime", FLOAT_RUNTIMES)
def test_bytes_in_and_out(base, stored, images, runtime):
    converted = stored("w1", runtime, input_type="uint8", output_type="int8")
    taken, given = converted.interface()
    assert (taken.shape, taken.dtype) == ((1, 32, 32, 3), np.uint8)
    assert (given.shape, given.dtype, given.scale) == ((1, 10), np.int8, 1 / 256)
    expected = stored("w1", runtime).predict(preprocess_input(images))
    received = converted.predict(images)
    assert received.dtype == np.float32
    nearest = np.minimum(np.round(expected * 256), 255) / 256
    np.testing.assert_array_equal(received, nearest)
    only_input, named, _ = convert.store(
        base("w1", runtime), form.Form(runtime, input_type="uint8")
    )
    np.testing.assert_array_equal(only_input.predict(images), expected)
    content = flatbuffer.read(named)
    (signature,) = content.signatureDefs
    assert {each.tensorIndex for each in signature.inputs} == set(content.subgraphs[0].inputs)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_than_colours_are_taken_as_numbers_alone(channels, tmp_path, capsys):
    """What to normalise grey bytes with, only who trained on them knows."""
    model = SEResNet14(filters=(4, 8, 16), input_shape=(32, 32, channels), weights=None)
    tflite = convert.convert(model, "litert")
    inputs = np.random.default_rng(0).normal(size=(8, 32, 32, channels)).astype(np.float32)
    converted = convert.store(tflite, form.Form("litert"))[0]
    np.testing.assert_allclose(converted.predict(inputs), model(inputs), atol=1e-4)
    message = rf"preprocess_input returns, \(H, W, 3\), received \(32, 32, {channels}\)"
    with pytest.raises(ValueError, match=message):
        convert.store(tflite, form.Form("litert", input_type="uint8"))
    save_weights(model, tmp_path / "other.npz", "digits", packed=True)
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path / "other.npz"), "--input-type", "uint8"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "must be of a network of RGB images, as data sets hold, received input_shape=(32, 3" in line
    )


def test_layers_before_the_stem_take_no_bytes():
    """Whether they expect bytes or what preprocess_input returns, the model does not say."""
    source = tf.keras.layers.Input((32, 32, 3))
    rescaled = tf.keras.layers.Rescaling(1 / 127.5, -1)(source)
    model = SEResNet14(filters=(4, 8, 16), input_tensor=rescaled, weights=None)
    tflite = convert.convert(model, "litert")
    inputs = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    converted = convert.store(tflite, form.Form("litert"))[0]
    np.testing.assert_allclose(converted.predict(inputs), model(inputs), atol=1e-4)
    with pytest.raises(ValueError, match="received layers before the first of its own"):
        convert.store(tflite, form.Form("litert", input_type="uint8"))


def test_an_input_of_ones_own_takes_bytes(images, inputs):
    source = tf.keras.layers.Input((32, 32, 3), name="camera")
    model = SEResNet14(filters=(4, 8, 16), input_tensor=source, weights=None)
    converted = convert.to_tflite(model, "litert", input_type="uint8")
    np.testing.assert_allclose(converted.predict(images), model(inputs), atol=1e-4)


def test_a_network_of_bytes_is_converted_as_it_is(images):
    source = tf.keras.layers.Input((32, 32, 3), dtype="uint8")
    rescaled = tf.keras.layers.Rescaling(1 / 127.5, -1)(source)
    model = SEResNet14(filters=(4, 8, 16), input_tensor=rescaled, weights=None)
    converted = convert.to_tflite(model, "litert")
    assert converted.interface()[0].dtype == np.uint8
    np.testing.assert_allclose(converted.predict(images), model(images), atol=1e-3)


def test_layers_of_ones_own_are_not_lost_with_mixed_precision():
    with layers_in("bfloat16"):
        source = tf.keras.layers.Input((32, 32, 3))
        rescaled = tf.keras.layers.Rescaling(1 / 127.5, -1, name="rescaled")(source)
        model = SEResNet14(filters=(4, 8, 16), input_tensor=rescaled, weights=None)
    with pytest.raises(ValueError, match=r"under the policy float32 .* received \['rescaled'\]"):
        convert.to_tflite(model)


@pytest.fixture(scope="module")
def converted(trained, tmp_path_factory):
    """Files that convert.py makes of trained runs, by precision; not to be changed."""
    made = {}

    def get(precision):
        if precision not in made:
            folder = tmp_path_factory.mktemp("converted")
            arguments = [str(trained(precision)), "--out-dir", str(folder), "--limit-test", "100"]
            made[precision] = convert.main(arguments)
        return made[precision]

    return get


def test_reports_say_what_was_measured(converted):
    file = converted("w1a1")
    assert file.name == "lce_1bit.tflite"
    report = json.loads(file.with_suffix(".json").read_text())
    assert report["failures"] == []
    assert report["model"] == "seresnet14_w1a1_se_sigmoid_fmb_4-8-16"
    assert report["dataset"] == "digits"
    assert report["images"] == 100
    assert report["keras_error"] == pytest.approx(report["converted_error"], abs=0.02)
    assert report["bytes"] == file.stat().st_size
    assert report["operators"]["LceBconv2d"] == 12
    assert report["operators"]["LceQuantize"] >= 12
    assert report["versions"]["larq-compute-engine"]
    by_layer = report["bytes_by_layer"]
    assert "predictions" not in by_layer
    # a bit for each weight of 16 filters of 3 x 3 x 16, with its BatchNorm
    assert 3 * 3 * 16 * 16 / 8 < by_layer["stage3_block2_2_bn"] < 3 * 3 * 16 * 16 / 8 + 300
    assert report["filters_left_alone"] == []
    assert 0.1 < sum(by_layer.values()) / report["bytes"] < 1
    text = file.with_suffix(".md").read_text()
    assert text.startswith("# seresnet14_w1a1_se_sigmoid_fmb_4-8-16: verified")
    assert "LceBconv2d | 12" in text


@pytest.mark.slow
def test_a_weight_file_alone_is_enough(trained, tmp_path, converted):
    weights = tmp_path / "moved.h5"
    shutil.copy(trained("w1") / "weights.h5", weights)
    convert.main([str(weights), "--limit-test", "10"])
    made = tmp_path / "moved" / "lce_1bit.tflite"
    proof = json.loads(made.with_suffix(".json").read_text())
    assert proof["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert made.read_bytes() == converted("w1").read_bytes()


def test_a_wrong_file_is_a_failure_with_a_report(trained, tmp_path, monkeypatch):
    """Another model's flatbuffer in place of the right one: exit status 1, and it says why."""
    other = convert.convert(SEResNet14(precision="w1a1", filters=(4, 8, 16), weights=None))
    monkeypatch.setattr(convert, "convert", lambda model, runtime, images: other)
    for ending in ("tflite", "json", "md"):
        (tmp_path / f"lce_1bit.{ending}").write_text("of weights before")
    with pytest.raises(SystemExit) as stop:
        convert.main([str(trained("w1a1")), "--out-dir", str(tmp_path), "--limit-test", "20"])
    assert "not verified" in str(stop.value.code)
    assert not list(tmp_path.glob("lce_1bit.[tjm]*"))
    assert (tmp_path / "lce_1bit.unverified.tflite").exists()
    report = json.loads((tmp_path / "lce_1bit.unverified.json").read_text())
    assert report["failures"] == [
        f"{report['unexplained']} images differ by more than rounding and not by a tie"
    ]
    assert report["unexplained"] > 10
    assert "NOT VERIFIED" in (tmp_path / "lce_1bit.unverified.md").read_text()
    (tmp_path / "lce_1bit.tflite").write_text("verified, of these weights")
    shutil.copy(tmp_path / "lce_1bit.unverified.json", tmp_path / "lce_1bit.json")
    with pytest.raises(SystemExit):
        convert.main([str(trained("w1a1")), "--out-dir", str(tmp_path), "--limit-test", "20"])
    assert (tmp_path / "lce_1bit.tflite").read_text() == "verified, of these weights"


def test_weights_that_ship_go_by_name_and_keep_their_classes(tmp_path, monkeypatch, capsys):
    """Proved on other images: agreement counts, and the labels are the model's own."""
    name = "seresnet14_w1_se_sigmoid_fmb_cifar10"
    monkeypatch.chdir(tmp_path)
    convert.main([name, "--dataset", "digits", "--limit-test", "20"])
    assert f"{name}.npz is of other classes than digits" in capsys.readouterr().err
    assert (tmp_path / name / "labels.txt").read_text().split()[3] == "cat"


def test_weights_without_class_names_leave_labels_alone(tmp_path, capsys, small_model):
    save_weights(small_model(), tmp_path / "own.npz", packed=True)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "labels.txt").write_text("by hand")
    convert.main([str(tmp_path / "own.npz"), "--dataset", "digits", "--limit-test", "20"])
    said = capsys.readouterr().err
    assert "own.npz does not name its classes" in said and "labels.txt stays" in said
    assert (folder / "labels.txt").read_text() == "by hand"
    assert "top-1 error" not in (folder / "lce_1bit.md").read_text()
    assert json.loads((folder / "lce_1bit.json").read_text())["keras_error"] is None


def test_weights_of_another_version_are_refused(tmp_path, capsys, small_model):
    model = tf.keras.models.clone_model(small_model())
    now = json.loads(small_model().configuration)
    for name, arguments in (
        ("later", now | {"later": 1}),
        ("weights", now | {"weights": "cifar10"}),
        ("include_top", {name: now[name] for name in now if name != "include_top"}),
    ):
        model.configuration = json.dumps(arguments)
        save_weights(model, tmp_path / "other.npz", "digits", packed=True)
        with pytest.raises(SystemExit):
            convert.main([str(tmp_path / "other.npz")])
        (line,) = capsys.readouterr().err.splitlines()
        assert f"other.npz is of another version, whose arguments differ in ['{name}']." in line


def test_a_model_of_mixed_precision_is_converted_in_float32(images, small_model):
    with layers_in("bfloat16"):  # still so when it is converted
        model = SEResNet14(filters=(4, 8, 16), weights=None)
        model.set_weights(small_model().get_weights())
        converted = convert.to_tflite(model, "litert")
    np.testing.assert_allclose(
        converted.predict(preprocess_input(images)),
        small_model()(preprocess_input(images)),
        atol=1e-5,
    )


def test_copies_in_float32_do_not_depend_on_what_is_frozen():
    with layers_in("bfloat16"):
        model = SEResNet14(filters=(4, 8, 16), attention="se_paper", weights=None)
    attention = model.get_layer("stage1_block1_se")
    attention.reduce.trainable = False
    copy = inference.in_float32(model).get_layer(attention.name)
    np.testing.assert_array_equal(copy.reduce.kernel, attention.reduce.kernel)
    np.testing.assert_array_equal(copy.expand.kernel, attention.expand.kernel)


@pytest.mark.slow
def test_lces_converter_is_given_no_second_way(monkeypatch, small_model):
    def broken(*arguments, **options):
        raise RuntimeError("broken")

    from larq_compute_engine.mlir.python import converter

    monkeypatch.setattr(converter, "convert_saved_model_to_tflite_flatbuffer", broken)
    with pytest.raises(RuntimeError, match="broken"):
        convert.convert(small_model())


def test_what_tensorflows_converter_raises_is_a_runtime_error(monkeypatch, small_model):
    """`ConverterError` of its own is none, and would end a program in a traceback."""

    def broken(converter):
        raise convert_phase.ConverterError("no such operator")

    monkeypatch.setattr(lite.TFLiteSavedModelConverterV2, "convert", broken)
    with pytest.raises(RuntimeError, match="converter failed: no such operator"):
        convert.convert(small_model(), "litert")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist: a run directory or a weight file is needed, or one"),
        (["{run}", "--limit-test", "9999"], "`limit_test` must be from 1 to 360, received 9999"),
        (["{run}", "--limit-test", "-5"], "`limit_test` must be at least 1, received -5"),
        (["{run}", "--dataset", "nosuchset"], "`dataset` must be a TFDS name"),
        (["{empty}"], "is no finished run: it holds no weights.h5"),
        (["{run}", "--out-dir", "{run}/config.json"], "File exists"),
        (["{run}", "--weights", "int8"], "--weights int8 is not for --runtime lce: it must"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, trained, tmp_path, capsys):
    arguments = [part.format(run=trained("w1"), empty=tmp_path) for part in arguments]
    with pytest.raises(SystemExit) as stop:
        convert.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("features", {"include_top": False}, "must have a classifier"),
        ("anything", {}, "--dataset is needed"),
    ],
)
def test_weights_that_cannot_be_proved_are_refused(tmp_path, capsys, name, arguments, message):
    save_weights(SEResNet14(filters=(4, 8, 16), **arguments, weights=None), tmp_path / name)
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path / name)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_network_on_top_of_one_is_converted_if_it_is_of_layers_alone(images, inputs):
    base = SEResNet14(include_top=False, pooling="avg", filters=(4, 8, 16), weights=None)
    top = tf.keras.layers.Dense(3, "softmax")
    message = "must be of layers alone, received one with seresnet14"
    for nested in (tf.keras.Sequential([base, top]), tf.keras.Sequential([base])):
        for options in ({}, {"input_type": "uint8"}):
            with pytest.raises(ValueError, match=message):
                convert.to_tflite(nested, **options)
    model = tf.keras.Model(base.input, top(base.output))
    expected = model.predict(inputs, verbose=0)
    for output_type, error in (("float32", 1e-4), ("int8", 1 / 255)):
        converted = convert.to_tflite(model, output_type=output_type)
        given = converted.predict(converted.as_input(images))
        np.testing.assert_allclose(given, expected, atol=error)
    logits = tf.keras.Model(base.input, tf.keras.layers.Dense(3)(base.output))
    expected = logits.predict(inputs, verbose=0)
    for runtime in ("lce", "litert"):  # the filters' layer is called as the output is
        given = convert.to_tflite(logits, runtime).predict(inputs)
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)
    yes_or_no = tf.keras.Model(base.input, tf.keras.layers.Dense(1, "sigmoid")(base.output))
    converted = convert.to_tflite(yes_or_no, "litert", output_type="int8")
    np.testing.assert_allclose(converted.predict(inputs), yes_or_no(inputs), atol=1 / 255)
    with pytest.raises(ValueError, match="a network that does not end in a softmax or sigmoid"):
        convert.to_tflite(base, "litert", output_type="int8")


def test_a_folder_that_takes_no_file_is_told_first(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "convert", lambda *_: 1 / 0)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(SystemExit):
        convert.main([str(trained("w1")), "--out-dir", str(taken), "--limit-test", "5"])
    assert str(taken) in capsys.readouterr().err


def test_a_network_for_images_of_any_size_is_refused():
    model = SEResNet14(include_top=False, input_shape=(None, None, 3), weights=None)
    with pytest.raises(ValueError, match=r"must have an `input_shape` of numbers, .*None, None, 3"):
        convert.to_tflite(model, "litert")


@pytest.mark.parametrize("gate_bias", [1.0, None])
def test_a_gate_is_open_at_its_threshold(gate_bias):
    """By its sign, too: whole numbers and a bias that makes some arguments 0, without rounding."""
    maps = tf.keras.layers.Input((2, 2, 16))
    attention = SqueezeExcite(kernel_quantizer="scaled_sign", gate_bias=gate_bias, name="se")
    gates = FMB(name="fmb")(attention(maps))
    model = SEResNet(maps, tf.keras.layers.Multiply()([maps, gates]))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (16, 16))
    signs[:, 0] = 8 * [-1.0, 1.0]  # whose sum is 0, and with it the bias
    attention.reduce.kernel.assign(np.ones((16, 16)))
    attention.expand.kernel.assign(signs)
    ones = np.ones((1, 2, 2, 16), np.float32)
    whole = inference._ChannelAttention(
        [np.sign(part.kernel) for part in (attention.reduce, attention.expand)], None, None
    )(ones)
    if gate_bias:
        attention.expand.bias.assign(-whole[0, 0, 0] / 16)
    expected = model(ones).numpy()
    assert (expected == 1).all() or not gate_bias
    for by_sign in (False, True):
        form = inference.inference_form(model, gates_by_sign=by_sign)
        np.testing.assert_array_equal(form(ones), expected)
        assert isinstance(form.get_layer("fmb"), inference._Sign) == bool(by_sign and gate_bias)
    if gate_bias:  # and closed at the next number below
        bias = np.nextafter(attention.expand.bias.numpy(), np.float32(-np.inf))
        attention.expand.bias.assign(bias)
        for by_sign in (False, True):
            form = inference.inference_form(model, gates_by_sign=by_sign)
            closed = form(ones).numpy()[..., whole[0, 0, 0] != 0]
            assert closed.size and not closed.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "tanh", "precision": "w1a1"},
        {"attention": "se_paper", "fmb": False, "reduction_ratio": 2},
        {"attention": None},
        {"precision": "float32", "activation": "tanh", "fmb": False},
        {"ends": "int8", "filters": (4, 6, 10)},
        {"ends": "sum3", "shift": True, "filters": (6, 8, 6), "precision": "w1a1"},
        {"attention": "cbam", "activation": "hard_tanh", "precision": "w1a1"},
        {"attention": "spatial", "activation": "hard_sigmoid", "fmb": False},
        {"attention": "cbam"},
        {"attention": "spatial"},
        {"gate_at": "middle", "inner": (3, 2, 8, 5, 9, 11), "squeezed": (1, 2, 0, 5, 3, 2)},
        {"outer": OUTER, "precision": "w1a1"},
    ],
    ids=(
        "tanh paper no_se float32 int8 sum3 cbam_hard spatial_soft cbam spatial inner outer".split()
    ),
)
def test_other_configurations_convert_too(arguments, images):
    """Every file agrees with its Keras model, and with no other; no filter is left as it was."""
    arguments = {"filters": (4, 8, 16), "weights": None, **arguments}
    model, other = (SEResNet14(**arguments) for _ in range(2))
    labels = np.zeros(len(images), int)
    for each in (model, other):
        for layer in each.layers:  # BatchNorm knows these maps: probabilities far from 0 and 1
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.momentum = 0.0
        each(preprocess_input(images), training=True)
    weights = "float32" if arguments.get("precision") == "float32" else "1bit"
    for runtime in FLOAT_RUNTIMES:
        tflite = convert.convert(model, runtime)
        for memory in pack.MEMORY if weights == "1bit" else [None]:
            converted, named, left_alone = convert.store(
                tflite, form.Form(runtime, weights, strip=True, memory=memory)
            )
            assert not left_alone
            assert not verify.compare(model, converted, images, labels).unexplained()
            assert len(verify.compare(other, converted, images, labels).unexplained()) > 4
        operators = anatomy.count_operators(flatbuffer.read(named))
        gated = arguments.get("attention", "se") and not arguments.get("fmb", True)
        assert bool(operators.keys() & {"LOGISTIC", "TANH", "MINIMUM"}) == bool(gated)


def test_features_are_not_given_as_probabilities():
    """An int8 output is from 0 to 1, features are not."""
    model = SEResNet14(filters=(4, 8, 16), weights=None, include_top=False, pooling="avg")
    with pytest.raises(
        ValueError, match="`output_type` 'int8' is for probabilities, received a ne"
    ):
        convert.to_tflite(model, "litert", output_type="int8")
    with pytest.raises(ValueError, match="`output_type` 'int8' is for probabilities"):
        convert.store(convert.convert(model, "litert"), form.Form("litert", output_type="int8"))


def test_what_is_no_model_of_one_image_and_one_answer_is_refused(small_model):
    base = small_model()
    heads = [tf.keras.layers.Dense(units, name=f"of{units}")(base.output) for units in (3, 1)]
    for model, message in (
        (tf.keras.Model(base.input, heads), "have one input and one output, received .* of3, of1"),
        ("own.npz", "must be a functional Keras model, .* received 'own.npz'"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_tflite(model, "litert")


@pytest.mark.parametrize("activation", ["sigmoid", "hard_tanh"])
def test_attention_that_is_seen_keeps_its_values(activation, inputs, small_model):
    """As an output, or beside FMB: the activation goes where FMB alone reads it."""
    base = small_model(activation=activation)
    attention, gates = (base.get_layer(f"stage3_block2_{name}").output for name in ("se", "fmb"))
    for output, one in ((attention, False), (attention + gates, False), (gates, True)):
        model = tf.keras.Model(base.input, output)
        inferred = inference.inference_form(model, gates_by_sign=True)
        np.testing.assert_allclose(inferred(inputs), model(inputs), rtol=1e-5, atol=1e-6)
        bare = inferred.get_layer("stage3_block2_se").activation == tf.keras.activations.linear
        assert bare == one


def test_rounding_to_eight_bits_by_hand():
    """255 steps from -1 to 1.55 are 0.01 each; an image of zeros stays one."""
    values = np.array([[-1.0, 0.0, 0.004, 0.006, 1.0, 1.55], [0.0] * 6], np.float32)
    expected = [[-1.0, 0.0, 0.0, 0.01, 1.0, 1.55], [0.0] * 6]
    rounded = inference.round_to_eight_bits(tf.constant(values))
    np.testing.assert_allclose(rounded, expected, atol=1e-6)


def test_files_and_labels_of_other_weights_are_not_replaced(tmp_path):
    """own.h5 and own.npz have one folder, and two runs may be converted into one."""
    folder = tmp_path / "made"
    folder.mkdir()
    made_of = []
    for name in ("one/weights.h5", "two/weights.h5"):
        weights = tmp_path / name
        weights.parent.mkdir()
        weights.write_bytes(name.encode())
        made_of.append(convert._made_of(weights, weights.parent, folder))
    one, two = made_of
    assert one["weights_file"] == "../one/weights.h5"
    trained_on = one | {"weights_sha256": "of other epochs"}
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "benchmark.json").write_text("[]")
    same, others = ("cat", "dog"), ("cat", "fox")
    for stem in ("lce_1bit", "lce_1bit.unverified"):
        report = folder / f"{stem}.json"
        report.write_text(json.dumps(one))
        message = rf"{stem}.tflite there is of ../one/weights.h5, not of ../two/weights.h5"
        with pytest.raises(ValueError, match=message):
            convert._check_unused(folder, "lce_1bit", two, same)
        with pytest.raises(ValueError, match=r"labels.txt there is of ../one/weights.h5, not of"):
            convert._check_unused(folder, "lce_1bit_half", two, others)
        for stem_of_mine, mine, names in (
            ("lce_1bit", one, same),
            ("lce_1bit", trained_on, others),
            ("lce_1bit_half", two, same),
            ("lce_1bit_half", two, ()),
        ):
            convert._check_unused(folder, stem_of_mine, mine, names)
        report.unlink()
    with pytest.raises(ValueError, match=r"labels.txt there was not written by this program"):
        convert._check_unused(folder, "lce_1bit", two, others)
    convert._check_unused(folder, "lce_1bit", two, same)
    shipped = "seresnet14_w1_se_sigmoid_fmb_cifar10"
    assert convert._made_of(weights, pathlib.Path(shipped), folder)["weights_file"] == shipped


def test_what_there_is_not_is_refused_in_python_too(small_model, monkeypatch):
    """Before anything is converted."""
    monkeypatch.setattr(convert, "convert", lambda *_: pytest.fail("converted"))
    model = small_model(precision="w1")
    for name, value in (
        ("runtime", "tflite"),
        ("weights", "int3"),
        ("input_type", "int8"),
        ("output_type", "uint8"),
    ):
        options = {"runtime": "litert", name: value}
        with pytest.raises(ValueError, match=f"`{name}` must be one of .*, received '{value}'"):
            convert.to_tflite(model, **options)
    with pytest.raises(ValueError, match=r"`memory` must be one of .*'least', 'fewest-bytes', rec"):
        convert.to_tflite(model, memory="most")
    for runtime, weights in (("litert", "int2"), ("lce", "float32")):
        for memory in pack.MEMORY:
            message = f"--memory {memory} is for .*, received {runtime} and {weights}"
            with pytest.raises(ValueError, match=message):
                convert.to_tflite(model, runtime, weights, memory=memory)


def test_a_float32_model_has_nothing_to_pack(small_model):
    tflite = convert.convert(small_model(precision="float32"), "litert")
    with pytest.raises(ValueError, match="--weights int2 needs 1-bit weights, and no layer has"):
        convert.store(tflite, form.Form("litert", "int2"))


def test_operators_are_counted_by_name(converted):
    content = flatbuffer.read(converted("w1").read_bytes())
    operators = anatomy.count_operators(content)
    assert operators["CONV_2D"] == 1 + 12
    assert operators["FULLY_CONNECTED"] == 12 + 1
    assert "LceBconv2d" not in operators
