import concurrent.futures
import dataclasses
import functools
import importlib.util
import os
import time

import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.export import (
    agreement,
    anatomy,
    c_array,
    convert,
    flatbuffer,
    form,
    pack_litert,
    pack_tflm,
    plan,
    runtimes,
    tflm,
    verify,
)
from larq_seresnet.training import data

import tensorflow as tf

NO_TFLM = "no tflite-micro of the tested build: pip install '.[tflm]' brings it"
needs_tflm = pytest.mark.skipif(importlib.util.find_spec("tflite_micro") is None, reason=NO_TFLM)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit_train=100, limit_test=100)


@pytest.fixture(scope="module")
def integers(base):
    """The trained network in 8-bit integers, before its filters are stored."""
    return base("w1", "tflm")


def _after_batch_norm_of(images, **arguments):
    """A network whose BatchNorm knows the maps of some images."""
    tf.keras.utils.set_random_seed(0)
    model = SEResNet14(**{"filters": (4, 8, 16), "weights": None, **arguments})
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(preprocess_input(images), training=True)
    for layer in model.layers:  # gates that close, too
        part = getattr(layer, "expand", getattr(layer, "conv", None))
        if part is not None and part.use_bias:
            part.bias.assign(np.random.default_rng(len(layer.name)).normal(0, 0.5, part.bias.shape))
    return model


def _maps(tflite, image):
    """What every tensor of a file holds for an image, by LiteRT's reference kernels."""
    interpreter = tf.lite.Interpreter(
        model_content=tflite,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor


@needs_tflm
@pytest.mark.parametrize("weights", pack_tflm.WEIGHTS)
def test_a_file_gives_what_its_unpacked_graph_gives_and_the_models_class(
    trained_model, integers, digits, weights
):
    converted, _, left_alone = convert.store(integers, form.Form("tflm", weights, strip=True))
    assert not left_alone
    found = verify.compare(trained_model(), converted, *digits.test)
    assert found.unpacked_same == found.images == 100
    assert found.other_filters == 0
    assert found.argmax_agreement > 0.9
    assert abs(found.converted_error - found.keras_error) <= 0.05


@needs_tflm
def test_filters_take_their_bits(trained_model, integers):
    weights = sum(
        int(np.prod(w.shape)) for w in trained_model().trainable_weights if len(w.shape) > 1
    )
    sizes = {
        each.weights: len(convert.store(integers, each)[0].tflite)
        for each in form.forms("tflm", strip=True)
    }
    assert sizes["int8"] - sizes["int4"] > weights / 2 - 500
    assert weights * 3 / 8 - 3_500 < sizes["int4"] - sizes["1bit"] < weights * 3 / 8
    assert sizes["1bit"] < sizes["int4"]


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [({}, 0), ({"activation": "tanh"}, -1), ({"attention": "cbam"}, 0)],
    ids=["sigmoid", "tanh", "cbam"],
)
def test_a_gate_is_on_the_side_of_its_argument(images, arguments, closed):
    """Recomputed in real numbers from the integers that go into the layer before it."""
    model = _after_batch_norm_of(images, **arguments)
    inputs = preprocess_input(images)
    content = flatbuffer.read(pack_tflm.convert(model, inputs))
    taken = anatomy.interface(content)[0]
    graph = content.subgraphs[0]
    products = [o for o in graph.operators if flatbuffer.operator_name(content, o) == "MUL"]
    gates = [anatomy.producer(graph, product.inputs[1]) for product in products]
    assert len(gates) == (12 if arguments.get("attention") else 6)
    bias = {
        layer.name: (layer.expand if hasattr(layer, "expand") else layer.conv).bias.numpy()
        for layer in model.layers
        if hasattr(layer, "expand") or layer.name.endswith("_spatial")
    }
    assert len(bias) == len(gates)
    seen: set[float] = set()
    maps = _maps(flatbuffer.write(content), taken.stored(inputs[:1]))
    for gate, name in zip(gates, bias, strict=True):
        found = np.asarray(maps(gate.outputs[0]), np.int64)
        facts = anatomy.facts(graph.tensors[gate.outputs[0]])
        values = np.round(facts.real(found), 6)
        assert set(np.unique(values)) <= {float(closed), 1.0}
        given = anatomy.facts(graph.tensors[gate.inputs[0]]).real(maps(gate.inputs[0]))
        kernel = np.sign(flatbuffer.constant(content, gate.inputs[1])).astype(np.float32)
        layer = model.get_layer(name)
        if kernel.ndim == 4:
            scale = kernel[0].size ** -0.5
            argument = tf.nn.conv2d(given, kernel.transpose(1, 2, 3, 0), 1, "SAME").numpy()
        else:
            scale = (layer.reduce.kernel.shape[0] * layer.expand.kernel.shape[0]) ** -0.5
            argument = given @ kernel.T
        argument = argument * scale + bias[name]
        clear = np.abs(argument) > 1e-5 * np.abs(argument).max()
        np.testing.assert_array_equal(values[clear] == 1, argument[clear] >= 0)
        seen |= set(np.unique(values))
    assert seen == {float(closed), 1.0}


@needs_tflm
def test_layers_of_equal_weights_have_scales_of_their_own(images):
    """Matrices of one weight, which the converter stores once, of modules with other gates."""
    outer = ((0,), (1, 3), (0, 2, 7), (5,), (*range(16),), (3, 4, 15))
    model = _after_batch_norm_of(images, outer=outer)
    kinds = []
    for make in (functools.partial(pack_litert.full_int8, integer_ends=True), pack_tflm.convert):
        content = flatbuffer.read(make(model, preprocess_input(images)))
        read = [operator.inputs[1] for operator in anatomy.convolutions(content)]
        kinds.append(len(set(read)))
    assert kinds[0] < kinds[1] == len(read)
    converted = convert.to_tflite(model, "tflm", images=preprocess_input(images))
    found = converted.predict(converted.as_input(images))
    classes = model.predict(preprocess_input(images), verbose=0).argmax(axis=1)
    assert (found.argmax(axis=1) == classes).mean() > 0.9


OTHERS = {
    "tanh": {"activation": "tanh", "input_shape": (48, 40, 3), "num_classes": 3},
    "soft": {"fmb": False, "shortcut": "conv", "head": "bias"},
    "no_se": {"attention": None, "ends": "int8", "filters": (4, 6, 10)},
    "paper": {"attention": "se_paper", "reduction_ratio": 2},
    "float_se": {"attention": "se_float32", "ends": "sum3"},
    "cbam": {"attention": "cbam", "activation": "hard_tanh"},
    "spatial": {"attention": "spatial", "fmb": False, "activation": "hard_sigmoid"},
    "float32": {"precision": "float32"},
    "inner": {"gate_at": "middle", "inner": (3, 2, 8, 5, 9, 11), "squeezed": (1, 2, 0, 5, 3, 2)},
    "outer": {
        "outer": ((0, 1, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2, 5, 6, 7), (*range(16),), (0, 1, 15))
    },
}


@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_configurations_are_computed_too(name):
    arguments = OTHERS[name]
    shape = (20, *arguments.get("input_shape", (32, 32, 3)))
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    model = _after_batch_norm_of(images, **arguments)
    tflite = convert.convert(model, "tflm", preprocess_input(images))
    weights = "int8" if name == "float32" else "1bit"
    converted, _, left_alone = convert.store(tflite, form.Form("tflm", weights, strip=True))
    expected = {"float32": 26, "no_se": 2, "float_se": 12, "inner": 2}.get(name, 0)
    assert len(left_alone) == expected
    found = verify.compare(model, converted, images, None)
    assert (found.unpacked_same, found.other_filters) == (20, 0)
    operators = anatomy.count_operators(flatbuffer.read(converted.tflite))
    assert operators.keys() <= c_array.METHODS.keys()  # firmware can add them all
    inputs = preprocess_input(images)
    taken = converted.interface()[0].stored(inputs)
    of_file = np.log(converted.predict(taken) + 1 / 256)
    of_model = np.log(model.predict(inputs, verbose=0) + 1 / 256)
    alike = np.corrcoef(of_file.ravel(), of_model.ravel())[0, 1]
    assert alike > 0.3  # gates near their thresholds tip; trained networks are compared by class
    assert tflm.arena(converted.tflite) > anatomy.peak_activations(
        flatbuffer.read(converted.tflite)
    )


def test_what_it_does_not_compute_is_refused_with_what_is_nearest(small_model, images):
    inputs = preprocess_input(images)
    with pytest.raises(ValueError, match=r"not for 1-bit activations.* Nearest is precision 'w1'"):
        pack_tflm.convert(small_model(precision="w1a1"), inputs)
    signs = small_model(activation="tanh", attention="se_float32")
    with pytest.raises(ValueError, match="gates of -1 and 1 whose attention is not 1-bit"):
        pack_tflm.convert(signs, inputs)
    with pytest.raises(ValueError, match="`images` must be training images for runtime 'tflm'"):
        convert.convert(small_model(), "tflm")


def test_without_its_package_it_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path), "--runtime", "tflm"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "needs the package tflite-micro, which is not installed: pip install" in said


@needs_tflm
def test_an_arena_of_one_step_less_is_refused(integers, digits):
    converted = convert.store(integers, form.Form("tflm", strip=True))[0]
    needed = tflm.arena(converted.tflite)
    assert needed % tflm.STEP == 0
    session = tflm.interpreter(converted.tflite, needed)
    image = anatomy.interface(flatbuffer.read(converted.tflite))[0].stored(
        preprocess_input(digits.test[0][:1])
    )
    session.set_input(image, 0)
    session.invoke()
    np.testing.assert_array_equal(session.get_output(0), tflm.predict(converted.tflite, image))
    with pytest.raises(RuntimeError):
        tflm.interpreter(converted.tflite, needed - tflm.STEP)


def test_a_crash_in_a_small_arena_is_no_refusal(monkeypatch):
    def interpreter(tflite, size=tflm.MOST):
        if size < 1000:
            os.abort()

    monkeypatch.setattr(tflm, "interpreter", interpreter)
    assert tflm._arena(b"") == 1008


def test_what_is_stopped_does_not_wait_for_its_processes(tmp_path, monkeypatch):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(tflm, "__file__", str(slow))
    monkeypatch.setattr(tflm, "is_installed", lambda: True)
    monkeypatch.setattr(concurrent.futures.Future, "result", _interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tflm.predict(b"", np.zeros((4, 1), np.int8))
    assert time.monotonic() - began < 30


def _interrupted(future, timeout=None):
    time.sleep(1)  # until its process has begun
    raise KeyboardInterrupt


@needs_tflm
def test_a_plan_is_followed_and_saves_memory(integers):
    tflite = flatbuffer.stripped(pack_tflm.store(integers, "1bit")[0])
    planned = plan.planned(tflite)
    assert tflm.arena(planned) <= tflm.arena(tflite) - 1024
    model = flatbuffer.read(planned)
    offsets, lives = plan.best_offsets(model), anatomy.lifetimes(model)
    assert {index for index, offset in enumerate(offsets) if offset >= 0} == lives.keys()
    for one, (first, last) in lives.items():
        for other, (begin, end) in lives.items():
            if one < other and first <= end and begin <= last:
                ends = [offsets[each] + anatomy.tensor_bytes(model, each) for each in (one, other)]
                assert offsets[one] >= ends[1] or offsets[other] >= ends[0]


@needs_tflm
def test_what_aborts_tflm_is_a_sentence(integers):
    """GREATER_EQUAL of a scale above 1: the process ends without one of its own."""
    model = flatbuffer.read(integers)
    graph = model.subgraphs[0]
    types = flatbuffer.schema.TensorType
    edit = flatbuffer.Edit(model)
    zero = edit.quantized_constant(np.zeros(1, np.int8), (1,), types.INT8, [2.0])
    graph.tensors[graph.outputs[0]].quantization = flatbuffer.quantization([2.0], [0])
    graph.outputs = edit.operator("GREATER_EQUAL", [graph.outputs[0], zero], [(1, 10)])
    graph.tensors[graph.outputs[0]].type = types.BOOL
    edit.append()
    with pytest.raises(ValueError, match="TFLM refuses the file"):
        tflm.predict(flatbuffer.write(model), np.zeros((1, 32, 32, 3), np.int8))


@needs_tflm
@pytest.mark.slow
def test_files_are_written_proved_and_verified_again(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(agreement, "OTHER_CLASS", 0.1)  # of a network of a few steps
    monkeypatch.setattr(agreement, "MORE_ERROR", 0.05)
    words = [str(trained("w1")), "--limit-test", "60"]
    target = convert.main([*words, "--runtime", "tflm", "--strip", "--out-dir", str(tmp_path)])
    assert target.name == "tflm_1bit.tflite"
    printed = capsys.readouterr().out
    assert "| images with the outputs of the same file, filters unpacked | 60 of 60 |" in printed
    assert f"| bytes of TFLM's arena on this machine | {tflm.arena(target.read_bytes()):,} |" in (
        printed
    )
    assert "| tflite-micro | 0.dev" in printed
    verify.main([str(target), *words])
    assert ": verified" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        verify.main([str(target), *words, "--runtime", "litert"])
    assert "is for TFLM, it holds TFLM_DECODE: use --runtime tflm" in capsys.readouterr().err
    monkeypatch.setattr(agreement, "OTHER_CLASS", 0)
    with pytest.raises(SystemExit, match="of images have the class that Keras gives"):
        verify.main([str(target), *words])


@needs_tflm
def test_a_file_that_is_not_its_unpacked_graph_is_not_verified(integers, digits, trained_model):
    """As when a table is read otherwise than it was meant."""
    converted = convert.store(integers, form.Form("tflm", strip=True))[0]
    unpacked = pack_tflm.unpacked

    def wrong(tflite):
        model = flatbuffer.read(unpacked(tflite))
        stem = anatomy.convolutions(model)[0].inputs[1]
        buffer = model.buffers[model.subgraphs[0].tensors[stem].buffer]
        buffer.data = -np.asarray(buffer.data, np.uint8).view(np.int8)
        return flatbuffer.write(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_tflm, "unpacked", wrong)
        found = verify.compare(trained_model(), converted, *digits.test)
    assert found.unpacked_same < 100
    assert "images differ from those of the same file, unpacked" in found.failures()[0]
    assert dataclasses.replace(found, unpacked_same=100, argmax_agreement=1.0).failures() in (
        [],
        [f"the error is {100 * (found.converted_error - found.keras_error):.2f} points "
         "above that of Keras"],
    )  # fmt: skip


@needs_tflm
def test_a_file_with_other_filters_is_not_verified(integers, digits, trained_model):
    """Though it computes what its own filters say, and nearly the model's classes."""
    converted = convert.store(integers, form.Form("tflm", "int8", strip=True))[0]
    model = flatbuffer.read(converted.tflite)
    graph = model.subgraphs[0]
    last = anatomy.convolutions(model)[-3].inputs[1]
    buffer = model.buffers[graph.tensors[last].buffer]
    values = np.array(buffer.data, np.uint8).view(np.int8)
    values[0] = -values[0]  # one bit
    buffer.data = values.view(np.uint8)
    damaged = dataclasses.replace(converted, tflite=flatbuffer.write(model))
    found = verify.compare(trained_model(), damaged, *digits.test)
    assert found.unpacked_same == 100
    assert found.other_filters == 1
    assert "1 channels of filters are not those of the model" in found.failures()


def test_channels_that_batch_norm_leaves_nothing_of_may_hold_nothing():
    kernel = np.array([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]], np.float32)  # (in, out)
    filters = np.array([[-127, -127], [0, 0], [5, -5]], np.int8)  # (out, in), signs and scales free
    for values, missing in ((filters, 0), (np.abs(filters), 1)):
        assert verify._not_held([kernel], [values]) == missing


@needs_tflm
def test_settled_gates_of_wide_attention_do_not_overflow():
    """TFLM's 32 bits were not enough for a bias of 1000 and 256 squeezed channels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    wide = {"gate_at": "middle", "inner": (4, 4, 8, 8, 16, 256)}
    model = _after_batch_norm_of(images, **wide)
    for layer in model.layers:
        if layer.name.endswith("_se"):
            bias = layer.expand.bias
            bias.assign(np.where(np.arange(bias.shape[0]) % 2, 1000.0, -1000.0))
    converted = convert.to_tflite(model, "tflm", images=preprocess_input(images), strip=True)
    inputs = converted.interface()[0].stored(preprocess_input(images))
    expected = model.predict(preprocess_input(images), verbose=0)
    np.testing.assert_allclose(converted.predict(inputs), expected, atol=0.1)


@needs_tflm
def test_layers_of_ones_own_are_computed_too():
    """Logits, whose tensor has the output's name, and filters of many scales along another axis."""
    layers = tf.keras.layers
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    base = _after_batch_norm_of(pixels, include_top=False)
    top = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(base.output)
    model = tf.keras.Model(base.input, layers.Dense(3)(layers.GlobalMaxPooling2D()(top)))
    images = preprocess_input(pixels)
    for weights in pack_tflm.WEIGHTS:
        converted = convert.to_tflite(model, "tflm", weights, images=images, strip=True)
        inputs = converted.interface()[0].stored(images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(converted.predict(inputs), expected, atol=0.4 * expected.std())
    with pytest.raises(ValueError, match="received DEPTHWISE_CONV_2D"):  # firmware has none
        c_array.header(converted.tflite, "own", (), 1)


def test_runtimes_by_their_files(integers, tmp_path):
    path = tmp_path / "integers.tflite"
    path.write_bytes(integers)
    if tflm.is_installed():
        assert runtimes.load(path).runtime == "tflm"
    assert runtimes.load(path, "litert").runtime == "litert"  # whose kernels compute it, too
