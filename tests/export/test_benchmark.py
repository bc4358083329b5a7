import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from larq_seresnet import SEResNet14, save_weights
from larq_seresnet.export import anatomy, benchmark, flatbuffer, form, pack_tflm
from larq_seresnet.training import data

import tensorflow as tf

# by hand: the stem, four 3x3 convolutions a stage but a narrower first
RESIDUAL_MACS = (
    4 * 32 * 32 * 9 * 4 * 4 + 16 * 16 * 9 * (4 * 8 + 3 * 8 * 8) + 8 * 8 * 9 * (8 * 16 + 3 * 16 * 16)
)
OTHER_MACS = 32 * 32 * 9 * 3 * 4 + 2 * 2 * (4 * 4 + 8 * 8 + 16 * 16) + 16 * 10


def test_multiply_accumulates_by_hand(base, stored):
    w1, w1a1 = (
        anatomy.macs(flatbuffer.read(stored(precision).tflite)) for precision in ("w1", "w1a1")
    )
    assert w1 == {"binary": 0, "int8": 0, "float32": RESIDUAL_MACS + OTHER_MACS}
    assert w1a1 == {"binary": RESIDUAL_MACS, "int8": 0, "float32": OTHER_MACS}
    int8 = anatomy.macs(flatbuffer.read(stored("w1a1", "litert", "int8").tflite))
    assert int8 == {"binary": 0, "int8": RESIDUAL_MACS, "float32": OTHER_MACS}


def test_depthwise_convolutions_of_others_count_too():
    layers = tf.keras.layers
    inputs = layers.Input((8, 8, 3), batch_size=1)
    outputs = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(layers.Conv2D(4, 1)(inputs))
    model = tf.keras.Model(inputs, outputs)
    tflite = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    content = flatbuffer.read(tflite)
    assert anatomy.macs(content)["float32"] == 64 * (3 * 4 + 9 * 4)
    assert anatomy.bytes_by_part(content, len(tflite))["filters"] >= 4 * (3 * 4 + 9 * 4)


def test_bytes_by_part(trained_model, stored):
    kernels = [w for w in trained_model().trainable_weights if len(w.shape) > 1]
    weights = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    for runtime, way, per_weight in (
        ("lce", "float32", 4),
        ("lce", "1bit", 1 / 8),
        ("litert", "1bit", 1 / 8),
        ("litert", "int2", 1 / 4),
        ("litert", "int8", 1),
    ):
        tflite = stored("w1", runtime, way).tflite
        parts = anatomy.bytes_by_part(flatbuffer.read(tflite), len(tflite))
        assert parts["bytes"] == len(tflite)
        assert parts["filters"] + parts["scales"] + parts["metadata"] == len(tflite)
        assert weights * per_weight <= parts["filters"] <= weights * per_weight + 40
        channels = 4 + 4 * (4 + 8 + 16)  # biases of stem and residuals
        biases = 4 * (channels + 2 * (4 + 8 + 16) + 10)
        assert biases <= parts["scales"] < 3 * biases


def test_peak_of_activations(base):
    """Without unpacking: the input of a block, its shortcut's copy and what it computes."""
    content = flatbuffer.read(base("w1", "litert"))
    one = 32 * 32 * 4 * 4
    assert 3 * one <= anatomy.peak_activations(content) <= 4 * one


def test_peak_counts_what_the_runtime_keeps(base, stored, trained_model):
    """DEQUANTIZE of a constant: computed for the first image, kept for the others."""
    kernels = sum(np.size(w) for w in trained_model().trainable_weights if len(w.shape) > 1)
    activations = anatomy.peak_activations(flatbuffer.read(base("w1", "litert")))
    content = flatbuffer.read(stored("w1", "litert", "int2").tflite)
    kept = anatomy.peak_activations(content) - activations
    assert 4 * kernels <= kept < 1.01 * 4 * kernels


@pytest.fixture(scope="module")
def folder(trained, base, stored, tmp_path_factory):
    """What benchmark.py writes of two models, and of a file that might be another's."""

    def converted(model, runtime, images=None):
        rounded = not model.get_layer("stem_bn").moving_mean.numpy().any()
        return base(json.loads(model.configuration)["precision"], runtime, rounded)

    folder = tmp_path_factory.mktemp("benchmark")
    runs = [str(trained(precision)) for precision in ("w1", "w1a1")]
    (folder / "other.tflite").write_bytes(
        stored("w1", "litert", "int4", input_type="uint8", output_type="int8").tflite
    )
    flags = f"--limit-test 20 --rounds 10 --out-dir {folder} --peer {folder / 'other.tflite'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark.convert, "convert", converted)
        benchmark.main([*runs, *flags.split()])
    return folder


@pytest.mark.slow
def test_a_benchmark_holds_every_target_and_its_figures(folder):
    result = json.loads((folder / "benchmark.json").read_text())
    assert result["dataset"] == "digits"
    assert result["images"] == 20
    assert result["machine"]["processor"]
    *ours, other = result["rows"]
    ways = [(row["runtime"], row["weights"]) for row in ours]
    bits = [f"{way}{fewest}" for way in ("1bit_half", "1bit") for fewest in ("", ", fewest bytes")]
    tflm = ("1bit", "int4", "int8") if pack_tflm.tflm.is_installed() else ()
    of_w1 = [("lce", way) for way in (*bits, "float32")]
    of_w1 += [("litert", way) for way in (*bits, "int2", "int4", "int8", "float32")]
    of_w1 += [("tflm", way) for way in tflm] + [("litert", "full int8")]
    of_w1a1 = [each for each in of_w1 if "half" not in each[1] and each[0] != "tflm"]
    assert ways == of_w1 + of_w1a1
    for row in ours:
        assert 0 < row["p50_1"] <= row["p90_1"]
        assert row["resident"] is None or row["memory"] / 2 < row["resident"] < 50e6
        assert 0 < row["p50_all"] <= row["p90_all"]
        assert (row["against_float32"] == 1) == (row["weights"] == "float32")
        least = 0.8 if row["runtime"] == "tflm" else 0.9
        assert row["argmax_agreement"] >= least or row["weights"] == "full int8"
        assert sum(row["macs"].values()) == RESIDUAL_MACS + OTHER_MACS
    by_way = dict(zip(ways[: len(of_w1)], ours, strict=False))
    assert (other["model"], other["weights"]) == ("other", "as given")
    assert other["error"] == pytest.approx(by_way["litert", "int4"]["error"], abs=0.051)
    assert other["argmax_agreement"] is other["against_float32"] is None
    assert 0 < other["p50_1"] <= other["p90_1"]
    assert by_way["litert", "full int8"]["macs"]["float32"] == 0
    for runtime, stored in form.WEIGHTS.items():
        fewest = [by_way.get((runtime, f"{way}, fewest bytes")) for way in stored]
        fewest = [row or by_way.get((runtime, way)) for row, way in zip(fewest, stored)]
        sizes = [row["bytes"] for row in fewest if row]
        assert sizes == sorted(sizes)
    text = (folder / "benchmark.md").read_text()
    assert ("This is no ARM processor" in text) == (result["machine"]["architecture"] == "x86_64")
    assert f"| other | litert | as given | {other['bytes']:,} |" in text
    for picture in ("benchmark.png", "error_by_bytes.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_float16_does_not_hold_is_left_out(capsys):
    """The other ways to store such a network are measured all the same."""
    model = SEResNet14(filters=(4, 8, 16), weights=None)
    model.get_layer("stage1_block1_se").expand.bias.assign(np.full(4, 80_000.0))
    found = benchmark.all_targets(model, "wide", None, ("lce",))
    assert [each.weights for each in found] == ["1bit", "1bit, fewest bytes", "float32"]
    assert "wide is not measured so: --weights 1bit_half needs" in capsys.readouterr().err


def test_what_a_runtime_refuses_is_left_out(trained, tmp_path, monkeypatch, capsys):
    """Not the whole benchmark with it."""

    def trial(program, runtime, *_, content=b""):
        return "too wide" * (len(content) > 20_000)

    monkeypatch.setattr(benchmark.files, "trial", trial)
    flags = f"--runtime lce --limit-test 5 --rounds 1 --out-dir {tmp_path}"
    rows = benchmark.main([str(trained("w1")), *flags.split()])
    assert rows and "float32" not in {row["weights"] for row in rows}
    assert "lce, float32 is not measured: too wide" in capsys.readouterr().err


def test_a_benchmark_of_one_runtime_holds_its_files_alone(trained, tmp_path):
    flags = f"--runtime lce --limit-test 5 --rounds 1 --out-dir {tmp_path}"
    rows = benchmark.main([str(trained("w1")), *flags.split()])
    assert {row["runtime"] for row in rows} == {"lce"}
    assert {row["weights"] for row in rows} >= set(form.WEIGHTS["lce"])


def test_a_peer_must_be_of_the_same_images(trained, stored, tmp_path, capsys):
    for name, content, message in (
        ("half", stored("w1", "litert", "int4").tflite[:999], "half.tflite is no .tflite file"),
        ("lce", stored("w1", "lce").tflite, "lce.tflite is for LCE"),
    ):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        with pytest.raises(SystemExit) as stop:
            benchmark.main([str(trained("w1")), "--peer", str(path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    twice = tmp_path / "again"
    twice.mkdir()
    path.write_bytes(stored("w1", "litert", "int4").tflite)
    shutil.copy(path, twice)
    with pytest.raises(SystemExit):
        benchmark.main([str(trained("w1")), "--peer", str(path), str(twice / path.name)])
    assert "must have names of their own, received lce twice" in capsys.readouterr().err
    images = data.load("digits", limit_train=1, limit_test=1)
    fewer = dataclasses.replace(images, class_names=images.class_names[1:])
    with pytest.raises(ValueError, match=r"and give \(1, 9\), received float32 .* \(1, 10\)"):
        benchmark.peer(path, fewer)


@pytest.mark.skipif(not pack_tflm.tflm.is_installed(), reason="no tflite-micro")
def test_peers_in_int8_are_measured_in_tflm_too(stored, capsys):
    def target(*way, **given):
        return benchmark.Target("other", "as given", stored("w1", *way, **given))

    integers = target("tflm", "int8")
    as_litert = dataclasses.replace(integers.converted, runtime="litert")
    found = benchmark.in_tflm(dataclasses.replace(integers, converted=as_litert))
    assert found == integers
    assert benchmark.in_tflm(target("litert", "int4")) is None
    assert not capsys.readouterr().err
    unknown = target("litert", "int4", input_type="uint8", output_type="int8").converted
    unknown = types.SimpleNamespace(tflite=unknown.tflite, interface=as_litert.interface)
    assert benchmark.in_tflm(benchmark.Target("other", "as given", unknown)) is None
    assert "other is measured in LiteRT alone: TFLM refuses the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, [0.0, 128.0, 255.0]), (np.uint8, [0, 128, 255]), (np.int8, [-128, 0, 127])],
)
def test_peers_get_the_pixels_that_they_take(monkeypatch, tmp_path, dtype, expected):
    pixels = np.array([[[[0], [128], [255]]]], np.uint8)
    zero, facts = -128 if dtype == np.int8 else 0, []
    loaded = types.SimpleNamespace(interface=lambda: facts)
    monkeypatch.setattr(benchmark.runtimes, "load", lambda path, runtime: loaded)
    images = data.ImageSet("three", ("a", "b"), (pixels, [0]), (pixels, [0]))

    def peer(scale, zero):
        taken = anatomy.TensorFacts((1, *pixels.shape[1:]), np.dtype(dtype), scale, zero)
        facts[:] = taken, anatomy.TensorFacts((1, 2), np.dtype(dtype))
        return benchmark.peer(tmp_path / "other.tflite", images)

    for scale in (1.0, 0.003921569):
        received = peer(scale, zero).inputs(pixels)
        assert received.dtype == dtype
        np.testing.assert_array_equal(np.ravel(received), expected)
    for scale, other in ((0.0187, zero), (1.0, zero + 14)):  # as those that take normalised ones
        with pytest.raises(ValueError, match=f"received scale {scale:g} and zero point {other}"):
            peer(scale, other)


def _loaded(arguments):
    parser = benchmark._parser()
    return benchmark._load(parser.parse_args([*map(str, arguments), "--limit-test", "1"]))


def test_models_of_one_name_are_told_apart(small_model, tmp_path):
    paths = [tmp_path / folder / "weights.h5" for folder in "abc"]
    for path in paths:
        path.parent.mkdir()
        save_weights(small_model(), path, "digits")
    models, images, directory = _loaded(paths)
    name = small_model().name
    assert [*models] == [f"{name} ({path})" for path in paths]
    assert (images.name, directory) == ("digits", paths[-1].parent)
    save_weights(small_model(attention=None), paths[0], "digits")
    assert [*_loaded(paths[:2])[0]] == [small_model(attention=None).name, name]


def test_models_must_be_of_one_kind_of_images_and_given_once(small_model, tmp_path):
    for name, height in (("one.h5", 32), ("two.h5", 48)):
        save_weights(small_model(input_shape=(height, 32, 3)), tmp_path / name, "digits")
    with pytest.raises(ValueError, match=r"one data set and input shape, .*\(48, 32, 3\)"):
        _loaded([tmp_path / "one.h5", tmp_path / "two.h5"])
    with pytest.raises(ValueError, match=r"given once, received .*one.h5 twice"):
        _loaded([tmp_path / "one.h5", tmp_path / "one.h5"])


def test_a_benchmark_of_nothing_is_refused(trained, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main([str(trained("w1a1")), "--runtime", "tflm"])
    assert stop.value.code == 2
    assert "--runtime must leave something to measure" in capsys.readouterr().err


def test_rounds_are_counted_from_one(trained, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main([str(trained("w1")), "--rounds", "0"])
    assert stop.value.code == 2
    assert "--rounds must be at least 1, received 0" in capsys.readouterr().err


def test_targets_take_turns(images):
    """Blocks of ten images each in turn, and one more before each block without the clock."""
    calls = []

    class Session:
        def __init__(self, name):
            self.name = name

        def feed(self, images):
            pass

        def invoke(self):
            calls.append(self.name)

    class Converted:
        def __init__(self, name):
            self.name = name

        def session(self, threads):
            return Session(self.name)

    targets = [benchmark.Target("model", "float32", Converted(name)) for name in "ab"]
    times = benchmark.latencies(targets, images, rounds=13, threads=1)
    assert "".join(calls) == "a" * 11 + "b" * 11 + "a" * 4 + "b" * 4
    assert times.shape == (2, 13)
    assert (times > 0).all()
