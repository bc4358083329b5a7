import ast
import json
import pathlib
import shutil
import zipfile

import h5py
import larq as lq
import numpy as np
import pytest

from larq_seresnet import SEResNet14, files, from_weights, load_weights, save_weights, weight_files
from larq_seresnet.weight_files import names_within
from larq_seresnet.weights import read

import tensorflow as tf

SMALL = {"filters": (4, 8, 16)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    model = SEResNet14(**SMALL, weights=None)
    save_weights(model, path, "digits", [f"a {digit}" for digit in range(10)])
    return model, path


def test_round_trip(saved, inputs):
    model, path = saved
    loaded = SEResNet14(**SMALL, weights=path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_alone_rebuilds_its_model(saved, inputs):
    model, path = saved
    contents = read(path)
    assert (contents.trained_on, contents.class_names[3]) == ("digits", "a 3")
    loaded = SEResNet14(**contents.configuration, weights=path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_keras_reads_the_file_too(saved, inputs, tmp_path):
    model, path = saved
    plain = tmp_path / "plain.h5"
    shutil.copy(path, plain)
    loaded = SEResNet14(**SMALL, weights=None)
    loaded.load_weights(plain)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_top_and_no_top_share_weights(saved, inputs):
    model, path = saved
    features = SEResNet14(**SMALL, weights=path, include_top=False, input_shape=(None, None, 3))
    expected = tf.keras.Model(model.input, model.get_layer("stage3_block2_relu").output)(inputs)
    np.testing.assert_array_equal(features(inputs), expected)


def test_layers_before_the_input_tensor_are_left_alone(saved, inputs):
    model, path = saved
    before = tf.keras.layers.Conv2D(3, 1, use_bias=False, name="before")
    source = tf.keras.layers.Input((32, 32, 3))
    whole = SEResNet14(**SMALL, input_tensor=before(source), weights=path)
    np.testing.assert_allclose(whole(inputs), model(before(inputs)), atol=1e-6)


def test_layers_before_the_stem_are_not_saved_in_silence(tmp_path):
    source = tf.keras.layers.Input((32, 32, 3))
    model = SEResNet14(**SMALL, input_tensor=tf.keras.layers.Rescaling(2.0)(source), weights=None)
    with pytest.warns(UserWarning, match=r"the layers before the stem, \['rescaling"):
        save_weights(model, tmp_path / "own.h5")


def test_without_top_there_are_no_classes(tmp_path):
    model = SEResNet14(**SMALL, include_top=False, num_classes=None, weights=None)
    with pytest.raises(ValueError, match="none without top, received 5"):
        save_weights(model, tmp_path / "own.h5", class_names=list("abcde"))
    save_weights(model, tmp_path / "own.h5")
    SEResNet14(**SMALL, include_top=False, num_classes=7, weights=tmp_path / "own.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "w1a1"}, "is for precision='w1', received precision='w1a1'"),
        ({"precision": "float32"}, "is for precision='w1', received precision='float32'"),
        ({"activation": "tanh"}, "is for activation='sigmoid', received activation='tanh'"),
        ({"fmb": False}, "is for fmb=True, received fmb=False"),
        ({"filters": (4, 8, 24)}, r"is for filters=\[4, 8, 16\], received filters=\[4, 8, 24\]"),
        ({"shortcut": "conv"}, "is for shortcut='pool', received shortcut='conv'"),
        ({"input_shape": (32, 32, 1)}, r"shapes .* for stem_conv, the model has"),
    ],
)
def test_other_configurations_are_refused(saved, arguments, message):
    with pytest.raises(ValueError, match=message):
        SEResNet14(**{**SMALL, **arguments}, weights=saved[1])


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_makes_the_network_that_it_is_of(packed, inputs, tmp_path):
    """Also one that pruning left, and without its top."""
    inner, squeezed = (3, 2, 8, 5, 9, 11), (1, 2, 0, 5, 3, 2)
    shape = {"gate_at": "middle", "inner": inner, "squeezed": squeezed, "num_classes": 3}
    model = SEResNet14(**SMALL, **shape, weights=None)
    save_weights(model, tmp_path / "own", packed=packed)
    loaded = from_weights(tmp_path / "own")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert from_weights(tmp_path / "own", input_tensor=None).input_shape == loaded.input_shape
    larger = tf.keras.layers.Input((64, 48, 3))
    assert from_weights(tmp_path / "own", input_tensor=larger).input_shape == (None, 64, 48, 3)
    features = from_weights(tmp_path / "own", include_top=False, pooling="avg")
    expected = tf.keras.Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_array_equal(features(inputs), expected(inputs))
    with pytest.raises(ValueError, match="from_weights makes the network that such a file is of"):
        SEResNet14(weights=tmp_path / "own")


def test_files_of_other_versions_are_refused(tmp_path):
    model = SEResNet14(**SMALL, weights=None)
    arguments = json.loads(model.configuration)
    earlier = {name: value for name, value in arguments.items() if name != "head"}
    for name, other, differs in (
        ("later", {**arguments, "new": 1}, "new"),
        ("earlier", earlier, "head"),
    ):
        model.configuration = json.dumps(other)
        save_weights(model, tmp_path / name)
        message = rf"{name} is of another version, whose arguments differ in \['{differs}'\]"
        with pytest.raises(ValueError, match=message):
            SEResNet14(**SMALL, weights=tmp_path / name)


def test_pooling_is_part_of_a_file(tmp_path, inputs):
    model = SEResNet14(**SMALL, include_top=False, pooling="avg", weights=None)
    save_weights(model, tmp_path / "pooled")
    again = SEResNet14(**read(tmp_path / "pooled").configuration, weights=tmp_path / "pooled")
    np.testing.assert_array_equal(again(inputs), model(inputs))
    maps = SEResNet14(**SMALL, include_top=False, weights=tmp_path / "pooled")
    assert maps.output_shape == (None, 8, 8, 16)


def test_no_top_file_is_refused_with_top(tmp_path):
    path = tmp_path / "features.h5"
    save_weights(SEResNet14(**SMALL, include_top=False, weights=None), path)
    with pytest.raises(ValueError, match="is for include_top=False"):
        SEResNet14(**SMALL, weights=path)


def test_other_classes_take_all_but_the_classifier(saved, inputs):
    model, path = saved
    fewer = SEResNet14(**SMALL, num_classes=5, weights=None)
    before = fewer.get_layer("classifier").get_weights()
    with pytest.warns(
        UserWarning, match="is for num_classes=10, received num_classes=5: the cla"
    ) as said:
        load_weights(fewer, path)
        SEResNet14(**SMALL, num_classes=5, weights=path)
    assert {each.filename for each in said} == {__file__}  # the user's own lines
    np.testing.assert_array_equal(fewer.get_layer("classifier").get_weights(), before)
    features = (
        tf.keras.Model(each.input, each.get_layer("avg_pool").output) for each in (model, fewer)
    )
    expected, received = (each(inputs) for each in features)
    np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "`class_names` must be as many as the model's classes, 10, received 1"),
        ([], "received 0"),
        ("abcdefghij", "`class_names` must be one name per class, received 'abcdefghij'"),
    ],
)
def test_class_names_must_be_as_many_as_classes(names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_weights(SEResNet14(**SMALL, weights=None), tmp_path / "named", class_names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("packed", [True, False])
def test_class_names_may_be_an_array(packed, tmp_path):
    names = np.array([f"a {digit}" for digit in range(10)])
    model = SEResNet14(**SMALL, weights=None)
    save_weights(model, tmp_path / "named", class_names=names, packed=packed)
    assert read(tmp_path / "named").class_names == list(names)


@pytest.mark.parametrize("packed", [True, False])
def test_weights_that_are_no_numbers_are_not_saved(packed, tmp_path):
    """Packed, NaN would become a sign like any other."""
    model = SEResNet14(**SMALL, weights=None)
    kernel = model.get_layer("stem_conv").kernel
    kernel.assign(tf.fill(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"must have finite weights, .* \['stem_conv/kernel:0'\]"):
        save_weights(model, tmp_path / "broken", packed=packed)
    assert not list(tmp_path.iterdir())


def test_kernels_of_more_than_one_bit_are_packed_as_floats(tmp_path, inputs):
    """Such as a layer of the user's own, before the input tensor."""
    source = tf.keras.layers.Input((32, 32, 3))
    before = lq.layers.QuantConv2D(3, 1, kernel_quantizer="dorefa_quantizer", name="before")
    model = SEResNet14(**SMALL, input_tensor=before(source), weights=None)
    save_weights(model, tmp_path / "packed", packed=True)
    layers = read(tmp_path / "packed").layers
    np.testing.assert_array_equal(layers["before"]["kernel"], before.get_weights()[0])


def _flip_a_weight(path):
    with h5py.File(path, "r+") as file:
        kernel = file["stem_conv"]["stem_conv"]["kernel:0"]
        kernel[0, 0, 0, 0] = -kernel[0, 0, 0, 0]


def _change_the_configuration(path):
    with h5py.File(path, "r+") as file:
        file.attrs["configuration"] = file.attrs["configuration"].replace("sigmoid", "tanh")


def _swap_gamma_and_beta(path):
    with h5py.File(path, "r+") as file:
        names = list(file["stem_bn"].attrs["weight_names"])
        file["stem_bn"].attrs["weight_names"] = [names[1], names[0], *names[2:]]


def _drop_the_data_set(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["trained_on"]


def _drop_the_digest(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["sha256"]


def _cut_off(path):
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_weight, "damaged: its SHA-256 is"),
        (_change_the_configuration, "damaged: its SHA-256 is"),
        (_swap_gamma_and_beta, "damaged: its SHA-256 is"),
        (_drop_the_data_set, "was not written by larq_seresnet.save_weights"),
        (_drop_the_digest, "the model's own method load_weights"),
        (_cut_off, "is damaged"),
        (lambda path: path.write_text("weights"), "must be None, 'cifar10', or the path"),
        (lambda path: path.unlink(), "received .*damaged.h5', which does not exist"),
    ],
)
def test_damaged_files_are_refused(saved, tmp_path, damage, message):
    path = tmp_path / "damaged.h5"
    shutil.copy(saved[1], path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        SEResNet14(**SMALL, weights=path)


@pytest.fixture(scope="module")
def packed(saved, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    save_weights(saved[0], path, trained_on="digits", packed=True)
    return path


@pytest.mark.parametrize("precision", ["w1", "w1a1", "float32"])
def test_packed_files_compute_the_same(precision, inputs, tmp_path):
    model = SEResNet14(**SMALL, precision=precision, weights=None)
    for layer in model.layers:  # BatchNorm's begin as zeros and ones
        layer.set_weights([weight + 0.01 for weight in layer.get_weights()])
    save_weights(model, tmp_path / "packed", trained_on="digits", packed=True)
    loaded = SEResNet14(**SMALL, precision=precision, weights=tmp_path / "packed")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert read(tmp_path / "packed").trained_on == "digits"


def test_packed_kernels_take_one_bit_a_weight(saved, packed):
    kernels = [weight for weight in saved[0].weights if weight.shape.rank > 1]
    with np.load(packed) as file:
        assert file["bits"].nbytes == -(-sum(np.prod(kernel.shape) for kernel in kernels) // 8)
        others = saved[0].count_params() - sum(np.prod(kernel.shape) for kernel in kernels)
        assert file["floats"].shape == (others,)


def _flip_a_bit(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["bits"][3] ^= 1
    np.savez(path, **arrays)


def _drop_the_facts(path):
    with np.load(path) as file:
        np.savez(path, bits=file["bits"])


def _pickle(path):
    np.savez(path, facts=np.array([{}]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_bit, "damaged: its SHA-256 is"),
        (_drop_the_facts, "was not written by larq_seresnet.save_weights"),
        (_pickle, "damaged: Object arrays cannot be loaded"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), "is damaged"),
    ],
)
def test_damaged_packed_files_are_refused(packed, tmp_path, damage, message):
    path = tmp_path / "damaged.npz"
    shutil.copy(packed, path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        SEResNet14(**SMALL, weights=path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"weights": [["stem_conv", [3, 3, 3, 9**9], True]]}, "is damaged: cannot reshape"),
        ({"weights": 5}, "is damaged: 'int' object is not iterable"),
        ({"configuration": ["w1"]}, "was not written by larq_seresnet.save_weights"),
        ({"class_names": 5}, "was not written by larq_seresnet.save_weights"),
        ({"class_names": ["one"]}, "was not written by larq_seresnet.save_weights"),
        ({"class_names": [5] * 10}, "was not written by larq_seresnet.save_weights"),
        ({"trained_on": {}}, "was not written by larq_seresnet.save_weights"),
    ],
)
def test_a_right_digest_of_wrong_facts_is_not_enough(packed, tmp_path, facts, message):
    arrays = files.load_arrays(packed)
    facts = json.loads(str(arrays.pop("facts"))) | facts
    facts["sha256"] = weight_files._digest_of_arrays(facts, arrays)
    path = tmp_path / "forged.npz"
    files.save_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})
    with pytest.raises(ValueError, match=f"`weights` {path} {message}"):
        read(path)


def test_hdf5_that_never_ends_is_damage(saved, tmp_path, monkeypatch):
    """HDF5 steps back for ever where a text's size is minus the 16 bytes of its header."""
    content = bytearray(saved[1].read_bytes())
    size = content.index(b"GCOL") + 24
    content[size : size + 8] = (2**64 - 16).to_bytes(8, "little")
    path = tmp_path / "forged.h5"
    path.write_bytes(content)
    monkeypatch.setattr(files, "TRIAL_SECONDS", 2)
    with pytest.raises(ValueError, match=r"forged.h5 is damaged: reading it takes more than 2 s"):
        read(path)


def test_an_array_larger_than_any_memory_is_damage(tmp_path):
    """NumPy believes what stands before an array."""
    path = tmp_path / "large.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % 2**60
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("bits.npy", b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n")
    with pytest.raises(ValueError, match=r"large.npz is damaged: Unable to allocate"):
        read(path)


@pytest.mark.parametrize(("kind", "least"), [("packed", 150), ("hdf5", 100)])
def test_no_flipped_bit_passes(saved, packed, tmp_path, kind, least, monkeypatch):
    """Where it makes a difference: both containers have bytes that nothing reads."""
    monkeypatch.setattr(files, "trial", lambda *_: "")  # of HDF5, which ends on all of these
    original = packed if kind == "packed" else saved[1]
    whole, content = read(original), original.read_bytes()
    path = tmp_path / "damaged"
    bits = np.random.default_rng(0).integers(0, 8 * len(content), 200).tolist()
    if kind == "packed":  # "encrypted", for which zipfile has an error of its own
        bits.append(8 * (content.index(b"PK\x01\x02") + 8))
    else:  # where the structure is
        bits += np.random.default_rng(1).integers(0, 8 * 4096, 100).tolist()
    refused = 0
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read(path)
        except ValueError:
            refused += 1
            continue
        assert found.configuration == whole.configuration
        for name, arrays in whole.layers.items():
            assert arrays.keys() == found.layers[name].keys()
            for weight, values in arrays.items():
                np.testing.assert_array_equal(values, found.layers[name][weight])
    assert refused > least, refused


def _model_and_frozen_one(attention="se"):
    """Two models of other weights; in the second Keras gives the attention's another order."""
    models = [SEResNet14(**SMALL, attention=attention, weights=None) for _ in range(2)]
    models[1].get_layer("stage1_block1_se").reduce.trainable = False
    return models


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("attention", ["se", "se_paper"])
def test_files_do_not_depend_on_what_is_frozen(attention, packed, inputs, tmp_path):
    """The matrices of "se_paper" have one shape: their order alone would not show."""
    whole, frozen = _model_and_frozen_one(attention)
    for number, (source, target) in enumerate(((frozen, whole), (whole, frozen))):
        kernel = source.get_layer("stage1_block1_se").reduce.kernel
        kernel.assign(-kernel)
        save_weights(source, tmp_path / str(number), packed=packed)
        load_weights(target, tmp_path / str(number))
        np.testing.assert_array_equal(target(inputs), source(inputs))


def test_files_do_not_depend_on_what_keras_calls_weights(inputs, tmp_path):
    """Within a clone without the layer's name, in a graph that has it already with a number."""
    model = SEResNet14(**SMALL, weights=None)
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    names = [each.get_layer("stage1_block1_se").weights[0].name for each in (model, clone)]
    assert names == ["stage1_block1_se/reduce/kernel:0", "reduce/kernel:0"]
    save_weights(clone, tmp_path / "clone.h5")
    np.testing.assert_array_equal(
        SEResNet14(**SMALL, weights=tmp_path / "clone.h5")(inputs), model(inputs)
    )
    layers = read(tmp_path / "clone.h5").layers
    assert list(layers["stage1_block1_se"]) == ["reduce/kernel", "expand/kernel", "expand/bias"]


@pytest.mark.parametrize(
    ("layer", "names", "expected"),
    [
        ("stem_conv", ["outer_1/stem_conv_2/kernel:0"], ["kernel"]),
        ("stem_conv", ["stem_conv/stem_conv/kernel:0"], ["kernel"]),
        ("conv1/bn", ["conv1/bn/gamma:0", "conv1/bn/beta:0"], ["gamma", "beta"]),
        ("front", ["conv2d_3/kernel:0", "dense_7/kernel:0"], ["conv2d/kernel", "dense/kernel"]),
        ("front", ["dense_3/bias:0", "dense_4/bias:0"], ["dense_3/bias", "dense_4/bias"]),
    ],
)
def test_names_of_weights_within_a_layer(layer, names, expected):
    assert names_within(layer, names) == expected


def test_weights_of_one_name_are_not_saved(tmp_path):
    """Such as a layer of the user's own: one of them would be lost."""

    class Nameless(tf.keras.layers.Layer):
        def build(self, input_shape):
            self.scales = [tf.Variable(1.0, name="scale") for _ in range(2)]

        def call(self, inputs):
            return self.scales[0] * self.scales[1] * inputs

    source = tf.keras.layers.Input((32, 32, 3))
    model = SEResNet14(**SMALL, input_tensor=Nameless(name="own")(source), weights=None)
    for packed in (True, False):
        with pytest.raises(ValueError, match=r"a name for each weight .* in own"):
            save_weights(model, tmp_path / "own", packed=packed)
    assert not list(tmp_path.iterdir())


def _of_version_0_1(path, frozen=False):
    """Makes a packed file one without names, in Keras's order of a layer with a frozen part."""
    arrays = files.load_arrays(path)
    facts = json.loads(str(arrays.pop("facts")))
    listed = facts["weights"] = [[layer, *rest] for layer, _, *rest in facts["weights"]]
    first = [layer for layer, *_ in listed].index("stage1_block1_se")
    if frozen:
        listed[first + 1 : first + 3] = listed[first + 2], listed[first + 1]
    facts["sha256"] = weight_files._digest_of_arrays(facts, arrays)
    files.save_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})


def test_packed_files_of_version_0_1_are_read(inputs, tmp_path):
    whole, frozen = _model_and_frozen_one("se_paper")
    save_weights(whole, tmp_path / "packed", packed=True)
    _of_version_0_1(tmp_path / "packed")
    load_weights(frozen, tmp_path / "packed")
    np.testing.assert_array_equal(frozen(inputs), whole(inputs))


def test_packed_files_of_version_0_1_in_another_order_are_refused(tmp_path):
    model = SEResNet14(**SMALL, weights=None)
    save_weights(model, tmp_path / "packed", packed=True)
    _of_version_0_1(tmp_path / "packed", frozen=True)
    with pytest.raises(ValueError, match=r"shapes .* for stage1_block1_se, the model has"):
        load_weights(model, tmp_path / "packed")


def test_keras_own_copies_do_not_depend_on_what_is_frozen(inputs, tmp_path):
    whole, frozen = _model_and_frozen_one("se_paper")
    whole.set_weights(frozen.get_weights())
    np.testing.assert_array_equal(whole(inputs), frozen(inputs))
    frozen.save(tmp_path / "frozen.h5")
    loaded = tf.keras.models.load_model(tmp_path / "frozen.h5")
    np.testing.assert_array_equal(loaded(inputs), frozen(inputs))
    assert not loaded.get_layer("stage1_block1_se").reduce.trainable
    assert loaded.get_layer("stage1_block1_se").expand.trainable


@pytest.mark.parametrize("part", ["all", "reduce"])
@pytest.mark.parametrize("attention", ["se", "se_paper"])
@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_what_is_trainable_again_stays_so(inputs, tmp_path, ending, attention, part):
    """Save frozen, load, unfreeze, save, load: how a network is fine-tuned in Keras."""
    model = SEResNet14(**SMALL, attention=attention, weights=None)
    count, expected = len(model.trainable_weights), model(inputs)
    for trainable in (False, True):
        if part == "all":
            model.trainable = trainable
        else:
            model.get_layer("stage1_block1_se").reduce.trainable = trainable
        model.save(tmp_path / f"model.{ending}")
        model = tf.keras.models.load_model(tmp_path / f"model.{ending}")
        np.testing.assert_array_equal(model(inputs), expected)
    assert len(model.trainable_weights) == count


def test_only_our_models_are_saved(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    with pytest.raises(ValueError, match="`model` must be what SEResNet14 returned"):
        save_weights(model, tmp_path / "other.h5")
    with pytest.raises(ValueError, match="`model` must be what SEResNet14 returned"):
        load_weights(model, "cifar10")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_networks_on_top_keep_what_is_frozen_of_the_attention(inputs, tmp_path, ending):
    base = SEResNet14(
        attention="cbam", filters=(4, 8, 16), include_top=False, pooling="avg", weights=None
    )
    base.get_layer("stage1_block1_spatial").conv.trainable = False
    base.get_layer("stage2_block1_se").expand.trainable = False
    model = tf.keras.Sequential([base, tf.keras.layers.Dense(3)])
    model.build((None, 32, 32, 3))
    model.save(tmp_path / f"model.{ending}")
    loaded = tf.keras.models.load_model(tmp_path / f"model.{ending}")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    again = loaded.layers[0]
    assert not again.get_layer("stage1_block1_spatial").conv.trainable
    assert not again.get_layer("stage2_block1_se").expand.trainable
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


class _Marks:
    """Unpickled, it writes a file: what code in a weight file could do."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_packed_file_is_not_run(tmp_path, small_model):
    mark, path = tmp_path / "mark", tmp_path / "forged.npz"
    save_weights(small_model(), path, packed=True)
    arrays = files.load_arrays(path)
    for name in arrays:
        np.savez(path, **arrays | {name: np.array([_Marks(mark)], dtype=object)})
        with pytest.raises(ValueError, match=r"is damaged|was not written"):
            read(path)
    assert not mark.exists()


def test_code_in_an_hdf5_file_is_not_run(tmp_path, small_model):
    """A whole model with a layer of code, and the same beside weights of ours, digest and all."""
    mark, path = tmp_path / "mark", tmp_path / "forged.h5"
    layer = tf.keras.layers.Lambda(lambda x, mark=str(mark): open(mark, "w") and x)
    others = tf.keras.Sequential([tf.keras.layers.Input((2,)), layer])
    assert mark.exists()  # so it would be seen
    mark.unlink()
    others.save(path, save_format="h5")
    with pytest.raises(ValueError, match=r"was not written by larq_seresnet.save_weights"):
        read(path)
    with h5py.File(path) as file:
        forged = file.attrs["model_config"]
    assert "Lambda" in forged
    save_weights(small_model(), path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = forged
        file.attrs["sha256"] = weight_files._digest(file)
    SEResNet14(filters=(4, 8, 16), weights=path)
    assert not mark.exists()


def test_nothing_that_runs_code_of_files_is_called():
    """SavedModels and whole Keras models of others are never loaded, nothing is unpickled."""
    root = pathlib.Path(__file__).parents[2]
    sources = [
        path
        for folder in ("larq_seresnet", "training", "export", "examples")
        for path in (root / folder).rglob("*.py")
    ]
    assert len(sources) > 50
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert not called.endswith(("models.load_model", "saved_model.load", "pickle.load")), (
                path
            )
            assert called not in ("eval", "exec", "pickle.loads", "load_model_from_json"), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


@pytest.mark.parametrize("trained_on", [True, 2026, pathlib.Path("flowers")])
def test_only_a_name_is_what_weights_were_trained_on(saved, tmp_path, trained_on):
    with pytest.raises(ValueError, match="`trained_on` must be None or the name of a data set"):
        save_weights(saved[0], tmp_path / "w.h5", trained_on)
    assert not list(tmp_path.iterdir())


def test_no_code_of_the_working_directory_runs(saved, tmp_path, monkeypatch):
    """Nor is what it prints taken for damage."""
    (tmp_path / "h5py.py").write_text("print('other code ran')\n")
    monkeypatch.chdir(tmp_path)
    assert read(saved[1]).trained_on == "digits"
