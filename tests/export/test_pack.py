import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.export import anatomy, convert, flatbuffer, form, pack
from larq_seresnet.export.runtimes import Converted


@pytest.fixture
def plain(base):
    """LCE's own file of a trained w1 model, nothing packed."""
    return base()


def _filters(tflite):
    """Float constants with more than one dimension."""
    content = flatbuffer.read(tflite)
    tensors = range(len(content.subgraphs[0].tensors))
    values = [flatbuffer.constant(content, index) for index in tensors]
    return [each for each in values if each is not None and each.dtype == "f4" and each.ndim > 1]


def test_bits_are_lces():
    signs = np.ones((2, 33), bool)
    signs[0, [0, 31]] = False
    signs[1, 32] = False
    np.testing.assert_array_equal(pack.bits(signs), [[1 | -(2**31), 0], [0, 1]])
    assert pack.bits(signs).dtype == np.int32
    assert pack.bits(np.ones((3, 2, 64), bool)).shape == (3, 2, 2)


@pytest.mark.parametrize("memory", pack.MEMORY)
def test_packed_and_stripped_files_compute_the_same_to_the_last_bit(plain, inputs, memory):
    expected = Converted(plain, "lce").predict(inputs)
    packed, left_alone = pack.pack(plain, memory)
    stripped = flatbuffer.stripped(packed)
    assert left_alone == []
    np.testing.assert_array_equal(Converted(packed, "lce").predict(inputs), expected)
    np.testing.assert_array_equal(Converted(stripped, "lce").predict(inputs), expected)
    assert len(stripped) < len(packed) < len(plain)


def test_filters_that_are_unpacked_one_by_one_take_one_place(plain):
    """Less memory; never two before one of them is read."""
    content = flatbuffer.read(pack.pack(plain)[0])
    unpackers = {id(each) for each in anatomy.unpacking(content)}
    waiting = set()
    for each in content.subgraphs[0].operators:
        if id(each) in unpackers:
            waiting = waiting - set(each.inputs) | set(each.outputs)
            assert len(waiting) == 1
        else:
            waiting -= set(each.inputs)
    together = flatbuffer.read(pack.pack(plain, "fewest-bytes")[0])
    assert anatomy.peak_activations(content) < anatomy.peak_activations(together)


def test_filters_of_uneven_widths_stand_in_one_constant(images):
    """As pruning leaves them; the same outputs to the last bit, in fewer bytes."""
    model = SEResNet14(
        weights=None,
        filters=(8, 16, 16),
        inner=(5, 7, 9, 11, 13, 15),
        attention=None,
        input_shape=images.shape[1:],
    )
    inputs = preprocess_input(images)
    by_itself, together = (
        convert.to_tflite(model, weights="1bit", memory=memory, strip=True)
        for memory in pack.MEMORY
    )
    np.testing.assert_array_equal(together.predict(inputs), by_itself.predict(inputs))
    assert len(together.tflite) < len(by_itself.tflite)
    content = flatbuffer.read(together.tflite)
    assert anatomy.count_operators(content)["LceDequantize"] == 1
    found = anatomy.bytes_by_part(content, len(together.tflite))
    kernels = sum(np.prod(each.shape) for each in model.weights if each.shape.rank > 1)
    assert kernels / 8 <= found["filters"] < kernels / 8 + 4


@pytest.mark.parametrize("memory", pack.MEMORY)
def test_words_of_binary_filters_are_not_half_empty(base, inputs, memory):
    plain = base("w1a1")
    packed = pack.pack(plain, memory)[0]
    np.testing.assert_array_equal(
        Converted(packed, "lce").predict(inputs), Converted(plain, "lce").predict(inputs)
    )
    content = flatbuffer.read(packed)
    unpacked = {index for each in anatomy.unpacking(content) for index in each.outputs}
    filters = [
        each.inputs[1]
        for each in content.subgraphs[0].operators
        if flatbuffer.operator_name(content, each) == "LceBconv2d"
    ]
    assert len(filters) == 12
    assert unpacked.issuperset(filters)
    # all before any is read, so that no two of them ever have the same address
    operators = content.subgraphs[0].operators
    born = max(turn for turn, each in enumerate(operators) if set(each.outputs) & set(filters))
    read = min(turn for turn, each in enumerate(operators) if set(each.inputs) & set(filters))
    assert born < read


def test_no_filter_stays_float(plain):
    assert len(_filters(plain)) == 13 + 13
    kept = _filters(pack.pack(plain)[0])
    assert all(each.size == len(each) for each in kept)  # scales: one value an output channel
    bits = 3 * 9 * 4 + 4 * 9 * 4 * 4 + 9 * 4 * 8 + 3 * 9 * 8 * 8 + 9 * 8 * 16 + 3 * 9 * 16 * 16
    bits += 4 * (16 + 64 + 256) + 16 * 10
    content = flatbuffer.read(pack.pack(plain)[0])
    packed = [
        content.buffers[content.subgraphs[0].tensors[each.inputs[0]].buffer].data
        for each in content.subgraphs[0].operators
        if flatbuffer.operator_name(content, each) == "LceDequantize"
    ]
    words = sum(len(each) for each in packed) / 4
    assert (
        bits / 32 <= words < bits / 32 + len(packed)
    )  # no word but the last of each is half empty


def test_what_is_not_two_valued_is_left_alone_and_named(plain, inputs):
    content = flatbuffer.read(plain)
    graph = content.subgraphs[0]
    operator = next(
        each
        for each in graph.operators
        if anatomy.layer_path(graph, each)[1].startswith("stage2_block2_2")
    )
    buffer = content.buffers[graph.tensors[operator.inputs[1]].buffer]
    values = np.frombuffer(bytes(buffer.data), np.float32).copy()
    values[5] *= 1.001
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    changed = flatbuffer.write(content)
    packed, left_alone = pack.pack(changed)
    assert len(left_alone) == 1
    assert left_alone[0].startswith("stage2_block2_2")
    np.testing.assert_array_equal(
        Converted(packed, "lce").predict(inputs), Converted(changed, "lce").predict(inputs)
    )


@pytest.mark.parametrize(
    ("runtime", "weights"),
    [("lce", "1bit"), ("litert", "1bit_half"), ("litert", "int2"), ("litert", "int8")],
)
def test_channels_of_which_nothing_is_left_are_packed_too(runtime, weights, inputs):
    """As where a BatchNorm's gamma is 0: one of them made files five times as large."""
    model = SEResNet14(weights=None, filters=(4, 8, 16), ends="int8", attention=None)
    for name in ("stem_bn", "stage1_block2_2_bn", "stage3_block1_1_bn"):
        layer = model.get_layer(name)
        kept = np.arange(layer.gamma.shape[0]) != 1
        layer.gamma.assign(kept * layer.gamma)
    tflite = convert.convert(convert.as_stored(model, weights), runtime)
    converted, _, left_alone = convert.store(tflite, form.Form(runtime, weights))
    assert left_alone == []
    atol = 0.02 if weights == "int8" else 0.002 if weights == "1bit_half" else 1e-4
    np.testing.assert_allclose(converted.predict(inputs), model(inputs), atol=atol)


def test_constants_begin_where_processors_want_words(stored):
    for runtime, weights in (("lce", "1bit"), ("litert", "int2"), ("tflm", "1bit")):
        for strip in (False, True):
            content = stored("w1", runtime, weights, strip=strip).tflite
            model = flatbuffer.schema.Model.GetRootAs(content, 0)
            buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
            begin = [each._tab.Vector(each._tab.Offset(4)) for each in buffers if each.DataLength()]
            assert len(begin) > 10
            assert not any(place % 16 for place in begin)


@pytest.mark.slow
def test_a_float32_model_is_left_alone(small_model, images):
    tflite = convert.convert(small_model(precision="float32"))
    packed, left_alone = pack.pack(tflite)
    assert len(left_alone) == 13 + 13
    inputs = preprocess_input(images)
    np.testing.assert_array_equal(
        Converted(packed, "lce").predict(inputs), Converted(tflite, "lce").predict(inputs)
    )


@pytest.mark.parametrize("weights", ["1bit", "1bit_half"])
def test_litert_unpacks_filters_before_they_are_read(stored, inputs, weights):
    """Outputs to the last bit, and memory for the filters of a few layers instead of all."""
    in_turn, at_once = (
        stored("w1", "litert", weights, memory=memory).tflite for memory in pack.MEMORY
    )
    received = [Converted(each, "litert").predict(inputs) for each in (at_once, in_turn)]
    np.testing.assert_array_equal(*received)
    some, all_of_them = (
        anatomy.peak_activations(flatbuffer.read(each)) for each in (in_turn, at_once)
    )
    assert some < all_of_them / 1.2  # maps are most of it where filters are few
    assert len(at_once) < len(in_turn) < len(at_once) + 5_000
    content = flatbuffer.read(in_turn)
    operators = content.subgraphs[0].operators
    unpackers = [flatbuffer.operator_name(content, each) for each in operators]
    first, last = unpackers.index("CONV_2D"), len(unpackers) - unpackers[::-1].index("RIGHT_SHIFT")
    assert first < last
