import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from larq_seresnet import SEResNet14, save_weights
from larq_seresnet.export import convert, flatbuffer, pack, verify
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import data


@pytest.fixture(scope="module")
def converted(trained, tmp_path_factory):
    """Folders with what convert.py makes of a trained run, by precision; not to be changed."""
    folders = {}

    def get(precision):
        if precision not in folders:
            folder = tmp_path_factory.mktemp("converted")
            arguments = [str(trained(precision)), "--out-dir", str(folder), "--limit-test", "100"]
            folders[precision] = convert.main(arguments)
        return folders[precision]

    return get


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
def test_the_file_computes_what_keras_computes(trained, converted, precision):
    """After real training steps, on test images and on noise, by code that is not convert.py's."""
    model = SEResNet14(
        precision=precision, filters=(4, 8, 16), weights=trained(precision) / "weights.h5"
    )
    tflite = (converted(precision) / "model.tflite").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    for images in (data.load("digits", limit_test=100).test[0], noise):
        inputs = preprocess_input(images)
        expected, received = model.predict(inputs, verbose=0), verify.run_lce(tflite, inputs)
        difference = np.abs(expected - received).max(axis=1)
        assert np.median(difference) < 1e-5
        if precision == "w1":
            assert difference.max() < 1e-4
        assert (expected.argmax(axis=1) == received.argmax(axis=1)).mean() > 0.98


def test_reports_say_what_was_measured(converted):
    folder = converted("w1a1")
    report = json.loads((folder / "report.json").read_text())
    assert report["failures"] == []
    assert report["model"] == "seresnet14_w1a1_se_sigmoid_fmb_4-8-16"
    assert report["dataset"] == "digits"
    assert report["images"] == 100
    assert report["keras_error"] == pytest.approx(report["converted_error"], abs=0.02)
    assert report["bytes"] == (folder / "model.tflite").stat().st_size
    assert report["operators"]["LceBconv2d"] == 12
    assert report["operators"]["LceQuantize"] >= 12
    assert report["versions"]["larq-compute-engine"]
    by_layer = report["bytes_by_layer"]
    assert by_layer["predictions"] > 0
    assert report["filters_left_alone"] == []
    assert 0.1 < sum(by_layer.values()) / report["bytes"] < 1
    text = (folder / "report.md").read_text()
    assert text.startswith("# seresnet14_w1a1_se_sigmoid_fmb_4-8-16: verified")
    assert "LceBconv2d | 12" in text


def test_a_weight_file_alone_is_enough(trained, tmp_path, converted):
    weights = tmp_path / "moved.h5"
    shutil.copy(trained("w1") / "weights.h5", weights)
    convert.main([str(weights), "--limit-test", "10"])
    expected = (converted("w1") / "model.tflite").read_bytes()
    assert (tmp_path / "model.tflite").read_bytes() == expected


def test_a_wrong_file_is_a_failure_with_a_report(trained, tmp_path, monkeypatch):
    """Another model's flatbuffer in place of the right one: exit status 1, and it says why."""
    other = convert.convert(SEResNet14(filters=(4, 8, 16)))
    monkeypatch.setattr(convert, "convert", lambda model: other)
    with pytest.raises(SystemExit) as stop:
        convert.main([str(trained("w1a1")), "--out-dir", str(tmp_path), "--limit-test", "20"])
    assert "not verified" in str(stop.value.code)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["failures"] == [
        f"{report['unexplained']} images differ by more than rounding and not by a tie",
        "0 binary convolutions instead of 12",
    ]
    assert "NOT VERIFIED" in (tmp_path / "report.md").read_text()


def test_lces_silent_second_way_is_an_error(monkeypatch, small_model):
    def broken(*arguments, **options):
        raise RuntimeError("broken")

    from larq_compute_engine.mlir.python import converter

    monkeypatch.setattr(converter, "convert_saved_model", broken)
    with pytest.raises(RuntimeError, match="could not convert the model's SavedModel"):
        convert.convert(small_model())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "`weights` must be None or the path"),
        (["{run}", "--limit-test", "9999"], "`limit_test` must be from 1 to 360, received 9999"),
        (["{run}", "--limit-test", "-5"], "`limit_test` must be at least 1, received -5"),
        (["{run}", "--dataset", "nosuchset"], "`dataset` must be a TFDS name"),
        (["{empty}"], "is no finished run: it holds no weights.h5"),
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
    save_weights(SEResNet14(filters=(4, 8, 16), **arguments), tmp_path / name)
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path / name)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "tanh", "precision": "w1a1"},
        {"attention": "se_paper", "fmb": False, "reduction_ratio": 2},
        {"attention": None},
        {"precision": "float32", "activation": "tanh", "fmb": False},
    ],
    ids=["tanh", "paper", "no_se", "float32"],
)
def test_other_configurations_convert_too(arguments, images):
    """Every one agrees with Keras, and another model's file does not."""
    model, other = (SEResNet14(filters=(4, 8, 16), **arguments) for _ in range(2))
    inputs, labels = preprocess_input(images), np.zeros(len(images), int)
    for each in (model, other):
        each(np.random.default_rng(1).normal(size=(64, 32, 32, 3)), training=True)
    unexplained = []
    for each in (model, other):
        named, left_alone = pack.pack(convert.convert(each))
        assert bool(left_alone) == (arguments.get("precision") == "float32")
        layers = verify.threshold_layers(named)
        agreement = verify.compare(model, pack.strip(named), inputs, labels, layers)
        unexplained.append(len(agreement.unexplained()))
        operators = flatbuffer.count_operators(flatbuffer.read(named))
        gated = arguments.get("attention", "se") and not arguments.get("fmb", True)
        assert bool(operators.keys() & {"LOGISTIC", "TANH"}) == bool(gated)
    assert unexplained[0] == 0
    assert unexplained[1] > 4


def test_operators_are_counted_by_name(converted):
    content = flatbuffer.read((converted("w1") / "model.tflite").read_bytes())
    operators = flatbuffer.count_operators(content)
    assert operators["CONV_2D"] == 1 + 12 + 2
    assert operators["FULLY_CONNECTED"] == 12 + 1
    assert "LceBconv2d" not in operators


def test_the_first_values_that_tip_are_found():
    names = ["a", "b", "c"]
    probabilities = np.array([0.5, 0.5])
    signs = [np.array(values) for values in ([1.0, -4.0], [2.0, -1e-6, -8.0], [1.0, 1.0])]
    others = [np.array(values) for values in ([1.1, -4.0], [2.0, 2e-6, -8.0], [1.0, -9.0])]
    tipped = verify._first_of_one(names, [probabilities, *signs], [probabilities + 0.1, *others])
    assert tipped["layer"] == "b"
    assert tipped["distance"] == pytest.approx(1e-6 / 8)
    same = verify._first_of_one(names, [probabilities, *signs], [probabilities, *signs])
    assert same == {"layer": None, "distance": 0.0}
    other = verify._first_of_one(names, [probabilities, *signs], [probabilities + 0.1, *signs])
    assert other == {"layer": None, "distance": float("inf")}


def test_only_ties_explain_a_difference():
    far = {"image": 1, "keras": 0, "converted": 1, "difference": 0.1, "layer": "b"}
    images = [
        {**far, "distance": distance} for distance in (1e-7, 1e-3, float("inf"), float("nan"))
    ]
    agreement = verify.Agreement(9, 0.1, 0.01, 0.5, 0.5, 0.5, images)
    assert agreement.unexplained() == images[1:]


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
def test_values_before_the_signs_are_keras_own(trained, converted, precision):
    """What first_tipped compares are the same tensors: equal up to rounding before any tie."""
    model = SEResNet14(
        precision=precision, filters=(4, 8, 16), weights=trained(precision) / "weights.h5"
    )
    inputs = preprocess_input(data.load("digits", limit_test=4).test[0])
    tflite = (converted(precision) / "model.tflite").read_bytes()
    names = verify.threshold_layers(tflite)
    assert len(names) == (18 if precision == "w1a1" else 6)
    outputs = [verify._compared_with_zero(model, name) for name in names]
    expected = tf.keras.Model(model.input, outputs)(inputs)
    received = verify.run_lce(verify._with_threshold_inputs(tflite), inputs)[1:]
    for name, left, right in zip(names, expected, received, strict=True):
        left, right = np.ravel(left), np.ravel(right)
        assert np.mean((left >= 0) == (right >= 0)) > 0.99, name
        if not name.endswith("fmb"):  # there the file has the argument of the activation
            assert np.median(np.abs(left - right)) < 1e-5, name


def test_nan_is_not_compared(converted, images):
    model = SEResNet14(filters=(4, 8, 16))
    model.get_layer("classifier").set_weights([np.full((16, 10), np.nan), np.zeros(10)])
    tflite = (converted("w1") / "model.tflite").read_bytes()
    with pytest.raises(ValueError, match="diverged"):
        verify.compare(model, tflite, preprocess_input(images), np.zeros(8, int), [])
