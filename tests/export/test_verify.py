import dataclasses
import json
import re

import numpy as np
import pytest

from larq_seresnet import SEResNet14, files
from larq_seresnet.export import (
    agreement,
    anatomy,
    convert,
    divergence,
    flatbuffer,
    form,
    report,
    runtimes,
    verify,
)
from larq_seresnet.preprocessing import MEAN, preprocess_input
from larq_seresnet.training import data

import tensorflow as tf

FILTERS = (4, 8, 16)


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    """Stripped files of trained runs on disk, by the arguments of `stored`."""
    folder = tmp_path_factory.mktemp("files")

    def get(*target, **options):
        path = folder / ("_".join(["file", *target, *options.values()]) + ".tflite")
        if not path.exists():
            path.write_bytes(stored(*target, **options).tflite)
        return path

    return get


def _fails(capsys, *arguments, status=2):
    with pytest.raises(SystemExit) as stop:
        verify.main([str(argument) for argument in arguments])
    assert stop.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("precision", "runtime", "weights"),
    [("w1", "lce", "1bit"), ("w1a1", "litert", "1bit"), ("w1", "litert", "int8")],
)
def test_a_file_is_verified_in_the_runtime_it_is_for(
    trained, file, capsys, precision, runtime, weights
):
    path = file(precision, runtime, weights)
    verify.main([str(path), str(trained(precision)), "--limit-test", "50", "--layers"])
    text = capsys.readouterr().out
    assert f"{path}: verified" in text
    assert {"lce": "LCE's interpreter", "litert": "LiteRT's interpreter"}[runtime] in text
    assert ("rounded to 8 bits" in text) == (weights == "int8")
    rows = dict(re.findall(r"\| (\w+) \| (\S+) \|", text.split("## Layers")[1]))
    assert {"stage1_block1_gate", "stage3_block2_fmb", "classifier_bn", "predictions"} <= set(rows)
    assert weights == "int8" or all(float(rows[name]) < 1e-3 for name in rows if name != "layer")


def test_bytes_in_and_out_are_verified_too(trained, file, capsys):
    path = file(input_type="uint8", output_type="int8")
    verify.main([str(path), str(trained("w1")), "--limit-test", "50"])
    assert "images beyond 0.004 | 0" in capsys.readouterr().out
    path = file("w1", "litert", "int8", input_type="uint8", output_type="int8")
    verify.main([str(path), str(trained("w1")), "--limit-test", "50"])
    assert f"{path}: verified" in capsys.readouterr().out


@pytest.mark.parametrize("runtime", ("lce", "litert"))
def test_files_of_bytes_are_verified_from_bytes(trained_model, stored, runtime, monkeypatch):
    """So what the file makes of them counts: one that normalises by another mean is found out."""
    given = []
    session = runtimes.Converted.session

    def listening(self, threads=1):
        inner = session(self, threads)
        feed = inner.feed
        inner.feed = lambda image: given.append(image.dtype) or feed(image)
        return inner

    monkeypatch.setattr(runtimes.Converted, "session", listening)
    converted = stored("w1", runtime, input_type="uint8")
    images = data.load("digits", limit_test=20).test[0]
    assert not verify.compare(trained_model(), converted, images, None).failures()
    assert {dtype.name for dtype in given} == {"uint8"}
    content = flatbuffer.read(converted.tflite)
    mean = np.float32(MEAN).tobytes()
    (buffer,) = [
        each for each in content.buffers if each.data is not None and bytes(each.data) == mean
    ]
    buffer.data = np.frombuffer((np.float32(MEAN) + 9).tobytes(), np.uint8)
    wrong = runtimes.Converted(flatbuffer.write(content), runtime)
    assert len(verify.compare(trained_model(), wrong, images, None).unexplained()) > 10


def test_the_first_layer_that_differs_is_named(trained, file, tmp_path, capsys):
    """All bits of one filter in the file flipped: exit status 1, and its layer is the first."""
    content = flatbuffer.read(file().read_bytes())
    unpacked = anatomy.unpacking(content)
    tensors = content.subgraphs[0].tensors
    dequantize, *_ = [each for each in unpacked if tensors[each.outputs[0]].shape[-1] == 9 * 8 * 8]
    buffer = content.buffers[tensors[dequantize.inputs[0]].buffer]
    buffer.data = ~np.array(buffer.data)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(flatbuffer.write(content))
    with pytest.raises(SystemExit) as stop:
        verify.main([str(broken), str(trained("w1")), "--limit-test", "50"])
    assert "not verified" in str(stop.value.code)
    text = capsys.readouterr().out
    assert "NOT VERIFIED" in text
    assert re.search(r"\| stage2_block1_2_bn \| \S+ \| first difference \|", text)


def test_what_is_no_file_of_ours_is_refused_in_one_line(trained, file, tmp_path, capsys):
    run_dir, whole = trained("w1"), file().read_bytes()
    for name, content in {"empty": b"", "text": b"x" * 999, "cut": whole[:-99]}.items():
        (tmp_path / name).write_bytes(content)
        line = _fails(capsys, tmp_path / name, run_dir)
        assert f"{name} is no .tflite file, or was cut off" in line
    assert "No such file" in _fails(capsys, tmp_path / "nowhere", run_dir)
    line = _fails(capsys, file(), run_dir, "--runtime", "litert")
    assert "is for LCE, it holds LceDequantize: use --runtime lce" in line
    line = _fails(capsys, file("w1", "litert", "int2"), run_dir, "--runtime", "lce")
    assert "is for LiteRT, it holds INT2 filters: use --runtime litert" in line
    line = _fails(capsys, file(), trained("w1a1"))
    assert "is of another architecture than seresnet14_w1a1" in line
    assert "give the weights it was made of" in line
    assert "is no finished run" in _fails(capsys, file(), tmp_path)
    for name, arguments, message in (
        ("larger", {"input_shape": (64, 64, 3)}, r"takes images of (1, 32, 32, 3), the weights"),
        ("classes", {"num_classes": 7}, "gives 10 classes, the weights 7"),
    ):
        model = SEResNet14(filters=FILTERS, **arguments, weights=None)
        with pytest.raises(ValueError, match=re.escape(message)):
            verify.check_fits(model, runtimes.load(file()), file(), tmp_path / name)


def _first(content, name):
    """The first operator of that name."""
    return next(
        each
        for each in content.subgraphs[0].operators
        if flatbuffer.operator_name(content, each) == name
    )


def _no_such_tensor(content):
    _first(content, "CONV_2D").outputs = [-2434]  # crashes LiteRT


def _no_such_buffer(content):
    content.subgraphs[0].tensors[0].buffer = 99999


def _no_such_code(content):
    content.subgraphs[0].operators[0].opcodeIndex = 99


def _unknown_code(content):
    content.operatorCodes[0].builtinCode = 9999


def _no_options(content):
    _first(content, "LceBconv2d").customOptions = np.zeros(8, np.uint8)


def _other_filter(content):
    index = _first(content, "FULLY_CONNECTED").inputs[1]
    content.subgraphs[0].tensors[index].shape = np.array([1, 1], np.int32)


def _two_outputs(content):
    content.subgraphs[0].outputs = [*content.subgraphs[0].outputs] * 2


def _no_graph(content):
    content.subgraphs = []


def _other_input(content):
    graph = content.subgraphs[0]
    graph.tensors[graph.inputs[0]].type = anatomy.schema.TensorType.INT64


def _huge_image(content):
    graph = content.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = np.array([1, 2**30, 2**30, 3], np.int32)


@pytest.mark.parametrize(
    "forge",
    [
        _no_such_tensor,
        _no_such_buffer,
        _no_such_code,
        _unknown_code,
        _no_options,
        _other_filter,
        _two_outputs,
        _no_graph,
        _other_input,
        _huge_image,
    ],
)
def test_forged_files_are_refused_in_one_line(trained, file, tmp_path, capsys, forge):
    content = flatbuffer.read(file("w1a1").read_bytes())
    forge(content)
    path = tmp_path / "forged.tflite"
    path.write_bytes(flatbuffer.write(content))
    assert f"{path} is " in _fails(capsys, path, trained("w1a1"))


def test_a_runtime_that_never_ends_is_given_up(trained, file, monkeypatch, capsys):
    monkeypatch.setattr(files, "TRIAL_SECONDS", 0.01)
    line = _fails(capsys, file(), trained("w1"))
    assert "cut off (reading it takes more than 0.01 s)" in line


def test_only_files_that_compare_can_feed_are_compared(trained_model, stored):
    content = flatbuffer.read(stored().tflite)
    graph = content.subgraphs[0]
    graph.tensors[graph.inputs[0]].type = anatomy.schema.TensorType.INT8
    converted = runtimes.Converted(flatbuffer.write(content), "lce")
    with pytest.raises(ValueError, match=r"file must take float32 or uint8, .* it takes int8"):
        verify.check_fits(trained_model(), converted, "file", "weights")


def test_integers_without_a_zero_point_have_none():
    tensor = anatomy.schema.TensorT()
    tensor.shape, tensor.type = [1, 10], anatomy.schema.TensorType.INT8
    tensor.quantization = flatbuffer.quantization([0.5], [3])
    assert anatomy.facts(tensor).zero_point == 3
    tensor.quantization.zeroPoint = None
    assert anatomy.facts(tensor).zero_point == 0


def test_what_a_runtime_says_is_one_line(trained, file, monkeypatch, capsys):
    def refuse(*arguments):
        raise RuntimeError("ERROR at interpreter")

    monkeypatch.setattr(verify, "compare", refuse)
    assert "ERROR at interpreter" in _fails(capsys, file(), trained("w1"), status=1)


def test_the_first_values_that_tip_are_found():
    names = ["a", "b", "c"]
    probabilities = np.array([0.5, 0.5])
    signs = [np.array(values) for values in ([1.0, -4.0], [2.0, -1e-6, -8.0], [1.0, 1.0])]
    others = [np.array(values) for values in ([1.1, -4.0], [2.0, 2e-6, -8.0], [1.0, -9.0])]
    tipped = divergence._first_of_one(
        names, [probabilities, *signs], [probabilities + 0.1, *others]
    )
    assert tipped == {"layer": "b", "distance": pytest.approx(1e-6 / 8), "cause": "tie"}
    same = divergence._first_of_one(names, [probabilities, *signs], [probabilities, *signs])
    assert same == {"layer": None, "distance": 0.0, "cause": "batch"}
    for difference, cause in ((0.003, "output"), (0.005, "batch")):  # as Keras at first, and later
        assert verify._named(same, difference, 0.004) == same | {"cause": cause}
    assert verify._named(same, 5e-5, divergence.ROUNDING) == same
    other = divergence._first_of_one(names, [probabilities, *signs], [probabilities + 0.1, *signs])
    assert other == {"layer": None, "distance": None, "cause": None}


@pytest.mark.parametrize(
    ("values", "cause"), [([-1e-7, 8], "tie"), ([-1e-3, 8], None), ([-1, np.nan], None)]
)
def test_only_values_at_a_threshold_are_ties(values, cause):
    outputs = [np.array([0.5]), np.array(values, float)]
    tipped = divergence._first_of_one(["a"], outputs, [outputs[0] + 0.1, outputs[1] * [-1, 1]])
    assert (tipped["layer"], tipped["cause"]) == ("a", cause)


def _agreement(kind=agreement.Agreement, **attributes):
    """Of nine images whose probabilities are somewhat different."""
    common = {
        "images": 9,
        "max_difference": 0.1,
        "mean_difference": 0.01,
        "argmax_agreement": 0.5,
        "keras_error": 0.5,
        "converted_error": 0.5,
        "rounding": 1e-4,
        "listed": [],
    }
    return kind(**common | attributes)


def test_a_report_counts_each_image_beyond_rounding_by_its_cause(images, stored):
    far = {"keras": 0, "converted": 1, "margin": 0.1, "difference": 0.1, "distance": 0.0}
    causes = [("a", "tie"), ("b", "tie"), (None, "batch"), ("c", None)]
    listed = [
        {**far, "image": image, "layer": layer, "cause": cause}
        for image, (layer, cause) in enumerate(causes)
    ]
    listed.append({**listed[-1], "difference": 1e-5})
    found = _agreement(listed=listed)
    assert found.unexplained() == listed[-2:]
    assert "2 images differ" in found.failures()[0]
    digits = data.load("digits", limit_train=1, limit_test=9)
    text = report.agreement(verify.facts(found, digits, stored()))
    assert "| images beyond 0.0001 | 4 |\n| of them explained by a tie | 2 |\n" in text
    assert "| of them by Keras too, in another batch | 1 |\n| of them unexplained | 1 |" in text
    assert "| 2 | 0 | 1 | 1.0e-01 | Keras in another batch | - |" in text


@pytest.mark.parametrize(
    ("rounding", "median", "most", "fails"),
    [
        (1e-4, 5e-7, 0.03, False),
        (1e-4, 2e-3, 0.03, True),
        (4e-3, 2e-3, 0.03, False),  # where the output is rounded too
        (1e-4, 5e-7, 0.06, True),
        (1e-4, np.nan, np.nan, True),
    ],
)
def test_8_bit_files_must_agree_with_keras_so_rounded(rounding, median, most, fails):
    """Whether or not an image changes class."""
    found = _agreement(
        agreement.OfRoundedInputs,
        rounding=rounding,
        eight_bit_median=median,
        eight_bit_most=most,
    )
    assert bool(found.failures()) == fails
    assert not fails or "rounded to 8 bits" in found.failures()[0]


@pytest.mark.parametrize(
    ("images", "others", "more", "fails"),
    [
        (10, 1, 1, 0),
        (10, 2, 2, 2),
        (50, 2, 1, 0),
        (50, 3, 2, 2),
        (100, 3, 2, 0),
        (100, 4, 3, 2),
        (400, 9, 5, 0),
        (400, 10, 6, 2),
        (10_000, 147, 47, 0),
        (10_000, 148, 48, 2),
    ],
)
def test_of_few_images_more_may_be_of_another_class_by_chance(images, others, more, fails):
    """TFLM's integers may change that of 1.25 % of images, and of some more by chance."""
    found = _agreement(
        agreement.OfIntegers,
        images=images,
        argmax_agreement=1 - others / images,
        keras_error=0.2,
        converted_error=0.2 + more / images,
        unpacked_same=images,
        other_filters=0,
    )
    assert len(found.failures()) == fails


@pytest.mark.parametrize(("count", "beyond"), [(1, 0), (2, 1), (60, 1), (199, 1), (10_000, 100)])
def test_how_many_images_may_round_otherwise(count, beyond):
    assert verify._beyond(count) == beyond


def test_an_int8_output_may_not_decide_the_class_of_many():
    """Of hundreds of classes, none of which is at a 256th."""
    told = {"image": 0, "keras": 0, "converted": 1, "margin": 0.0, "difference": 0.004}
    listed = [told | {"layer": None, "distance": 0.0, "cause": "output"}] * 20
    found = _agreement(
        images=100,
        max_difference=0.004,
        argmax_agreement=0.8,
        keras_error=0.1,
        converted_error=0.25,
        rounding=0.005,
        listed=listed,
    )
    assert not found.unexplained()
    assert found.failures() == [
        "80.00% of images have the class that Keras gives",
        "the error is 15.00 points above that of Keras",
    ]
    assert not dataclasses.replace(found, argmax_agreement=0.99, listed=[]).failures()


def test_larger_images_are_compared_fewer_at_a_time():
    for size, count in ((32, 500), (64, 125), (16, 2000), (1024, 1)):
        assert divergence.as_many(500, np.broadcast_to(0, (9, size, size, 3))) == count


def test_images_are_compared_some_at_a_time(trained_model, stored, monkeypatch):
    model, converted = trained_model("w1"), stored("w1")
    shown, labels = data.load("digits", limit_test=25).test
    whole = verify.compare(model, converted, shown, labels)
    sizes = []
    predict = type(converted).predict

    def counted(self, some):
        sizes.append(len(some))
        return predict(self, some)

    monkeypatch.setattr(verify, "BATCH", 5)
    monkeypatch.setattr(type(converted), "predict", counted)
    parts = verify.compare(model, converted, shown, labels)
    assert sizes[:3] == [10, 10, 5]
    assert parts.converted_error == whole.converted_error
    np.testing.assert_allclose(parts.max_difference, whole.max_difference, atol=1e-6)


@pytest.mark.parametrize("target", [("w1", "lce"), ("w1", "litert", "int8")])
def test_a_file_that_gives_nan_is_not_verified(trained_model, stored, images, target):
    class Broken(runtimes.Converted):
        def predict(self, images):
            outputs = super().predict(images)
            probabilities = outputs[0] if isinstance(outputs, list) else outputs
            probabilities[:] = np.nan
            return outputs

    broken = Broken(stored(*target).tflite, target[1])
    found = verify.compare(trained_model(), broken, images, np.zeros(8, int))
    changed = [each["image"] for each in found.unexplained()]
    assert changed == ([] if "int8" in target else list(range(8)))
    assert found.failures()
    digits = data.load("digits", limit_train=1, limit_test=1)
    json.dumps(verify.facts(found, digits, broken), allow_nan=False)


def test_what_a_file_gives_is_not_taken_from_another_one(trained_model, stored, images):
    """With its maps exposed it has another plan of memory, and might compute rightly."""
    model, converted = trained_model(), stored()
    given = converted.predict(converted.as_input(images))
    for answers, cause in ((given, "batch"), (given[:, ::-1], None)):
        found = divergence.first_tipped(model, converted, images, answers)
        assert {each["cause"] for each in found} == {cause}


@pytest.mark.slow
def test_layers_with_float_weights_keep_their_inputs(images):
    """INT8 files of the control with a float32 SE: its inputs are not rounded, here nor there."""
    tf.keras.utils.set_random_seed(1)  # of other weights, all 0 or 1, an image may lie on a step
    model = SEResNet14(filters=FILTERS, attention="se_float32", fmb=False, weights=None)
    tflite = convert.convert(model, "litert")
    converted, _, left_alone = convert.store(tflite, form.Form("litert", "int8"))
    assert len(left_alone) == 12
    assert verify.compare(model, converted, images, np.zeros(8, int)).failures() == []


@pytest.mark.parametrize("precision", ["w1", "w1a1"])
@pytest.mark.parametrize("runtime", ("lce", "litert"))
def test_values_before_the_signs_are_keras_own(trained_model, stored, precision, runtime):
    """What first_tipped compares are the same tensors: equal up to rounding before any tie."""
    model, converted = trained_model(precision), stored(precision, runtime)
    images = data.load("digits", limit_test=4).test[0]
    layers = divergence.threshold_layers(model)
    assert len(layers) == (18 if precision == "w1a1" else 6)
    outputs = [divergence._compared_with_zero(layer) for layer in layers]
    expected = tf.keras.Model(model.input, outputs)(preprocess_input(images))
    operators = divergence.threshold_operators(flatbuffer.read(converted.tflite))
    exposed = divergence._exposed(converted, [each.inputs[0] for each in operators])
    received = exposed.predict(preprocess_input(images))[1:]
    for layer, left, right in zip(layers, expected, received, strict=True):
        left, right = np.ravel(left), np.ravel(right)
        assert np.mean((left >= 0) == (right >= 0)) > 0.99, layer.name
        if not layer.name.endswith("fmb"):  # there the file has the argument of the activation
            assert np.median(np.abs(left - right)) < 1e-5, layer.name


@pytest.mark.parametrize("runtime", ("lce", "litert"))
def test_no_negative_zero_reaches_a_sign_on_a_device(stored, runtime):
    """LCE's packer on ARM takes -0.0 for -1, everything else for +1."""
    converted = stored("w1a1", runtime)
    operators = divergence.threshold_operators(flatbuffer.read(converted.tflite))
    exposed = divergence._exposed(converted, [each.inputs[0] for each in operators])
    images = data.load("digits", limit_test=20).test[0]
    for values in exposed.predict(preprocess_input(images))[1:]:
        assert not np.any((values == 0) & np.signbit(values))


def test_nan_is_not_compared(stored, images):
    model = SEResNet14(filters=FILTERS, weights=None)
    model.get_layer("classifier").set_weights([np.full((16, 10), np.nan)])
    with pytest.raises(ValueError, match="diverged"):
        verify.compare(model, stored(), images, np.zeros(8, int))
