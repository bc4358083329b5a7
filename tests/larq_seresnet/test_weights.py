import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf

from larq_seresnet import SEResNet14, save_weights
from larq_seresnet.weights import read_configuration

SMALL = {"filters": (4, 8, 16)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    model = SEResNet14(**SMALL)
    save_weights(model, path, trained_on="digits")
    return model, path


def test_round_trip(saved, inputs):
    model, path = saved
    loaded = SEResNet14(**SMALL, weights=path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_alone_rebuilds_its_model(saved, inputs):
    model, path = saved
    configuration, trained_on = read_configuration(path)
    assert trained_on == "digits"
    np.testing.assert_array_equal(SEResNet14(**configuration, weights=path)(inputs), model(inputs))


def test_keras_reads_the_file_too(saved, inputs, tmp_path):
    model, path = saved
    plain = tmp_path / "plain.h5"
    shutil.copy(path, plain)
    loaded = SEResNet14(**SMALL)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "w1a1"}, "is for precision='w1', received precision='w1a1'"),
        ({"precision": "float32"}, "is for precision='w1', received precision='float32'"),
        ({"activation": "tanh"}, "is for activation='sigmoid', received activation='tanh'"),
        ({"fmb": False}, "is for fmb=True, received fmb=False"),
        ({"filters": (4, 8, 12)}, r"is for filters=\[4, 8, 16\], received filters=\[4, 8, 12\]"),
        ({"num_classes": 5}, r"shapes \[\(16, 10\), \(10,\)\] for classifier, the model has"),
        ({"input_shape": (32, 32, 1)}, r"shapes .* for stem_conv, the model has"),
    ],
)
def test_other_configurations_are_refused(saved, arguments, message):
    with pytest.raises(ValueError, match=message):
        SEResNet14(**{**SMALL, **arguments}, weights=saved[1])


def test_no_top_file_is_refused_with_top(tmp_path):
    path = tmp_path / "features.h5"
    save_weights(SEResNet14(**SMALL, include_top=False), path)
    with pytest.raises(ValueError, match="is for include_top=False"):
        SEResNet14(**SMALL, weights=path)


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
        (_drop_the_data_set, "was not written by save_weights"),
        (_drop_the_digest, "was not written by save_weights"),
        (_cut_off, "is damaged"),
        (lambda path: path.write_text("weights"), "must be None or the path"),
        (lambda path: path.unlink(), "must be None or the path"),
    ],
)
def test_damaged_files_are_refused(saved, tmp_path, damage, message):
    path = tmp_path / "damaged.h5"
    shutil.copy(saved[1], path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        SEResNet14(**SMALL, weights=path)


def test_only_our_models_are_saved(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    with pytest.raises(ValueError, match="`model` must be what SEResNet14 returned"):
        save_weights(model, tmp_path / "other.h5")
    assert not list(tmp_path.iterdir())
