import json
import shutil

import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.export import convert, flatbuffer, verify
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
        assert np.abs(expected - received).mean() < 1e-5
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
    assert by_layer["classifier"] == 4 * (16 * 10 + 10)
    assert 0.3 < sum(by_layer.values()) / report["bytes"] < 1
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
    assert any("0 binary convolutions instead of 12" in failure for failure in report["failures"])
    assert len(report["failures"]) > 1
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
        (["{run}", "--limit-test", "9999"], "`limit_test` must be at most 360, received 9999"),
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


def test_operators_are_counted_by_name(converted):
    content = flatbuffer.read((converted("w1") / "model.tflite").read_bytes())
    operators = flatbuffer.count_operators(content)
    assert operators["CONV_2D"] == 1 + 12 + 2
    assert operators["FULLY_CONNECTED"] == 12 + 1
    assert "LceBconv2d" not in operators


def test_compare_by_hand():
    expected = np.array([[0.6, 0.4], [0.5001, 0.4999], [0.2, 0.8]], np.float32)
    received = np.array([[0.6, 0.4], [0.4999, 0.5001], [0.2, 0.8]], np.float32)
    agreement = verify.compare(expected, received, np.array([0, 1, 0]))
    assert agreement.images == 3
    assert agreement.argmax_agreement == pytest.approx(2 / 3)
    assert agreement.max_difference == pytest.approx(2e-4, rel=1e-2)
    assert agreement.beyond_rounding == 1
    assert (agreement.keras_error, agreement.converted_error) == pytest.approx((2 / 3, 1 / 3))
    (tie,) = agreement.disagreements
    assert (tie["image"], tie["keras"], tie["converted"]) == (1, 0, 1)
    assert tie["margin"] == pytest.approx(2e-4, rel=1e-2)
    with pytest.raises(ValueError, match="diverged"):
        verify.compare(expected * np.nan, received, np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="shapes"):
        verify.compare(expected, received[:2], np.array([0, 1, 0]))
