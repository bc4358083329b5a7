"""Networks on top of a SEResNet14, as README has them, in every format that Keras has."""

import subprocess
import sys

import numpy as np
import pytest

from larq_seresnet import SEResNet14

import tensorflow as tf

LOAD = """
import pathlib, sys
import larq_seresnet
import numpy as np, tensorflow as tf

folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npy")
models = {path.name: tf.keras.models.load_model(path) for path in (folder / "models").iterdir()}
np.savez(folder / "received.npz", **{name: model(inputs) for name, model in models.items()})
"""


def _flat(base, top):
    return tf.keras.Model(base.input, top(base.output))


def _nested(base, top):
    image = tf.keras.layers.Input((32, 32, 3))
    return tf.keras.Model(image, top(base(image)))


def _sequential(base, top):
    return tf.keras.Sequential([base, top])


FILES = {
    _flat: ("flat.h5", "flat.keras", "flat"),
    _nested: ("nested.h5", "nested.keras"),
    _sequential: ("sequential.h5", "sequential.keras", "sequential"),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What networks say of some images, and what their files say of them in a fresh process."""
    folder = tmp_path_factory.mktemp("saved")
    inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    expected = {}
    for network, names in FILES.items():
        base = SEResNet14(filters=(4, 8, 16), include_top=False, pooling="avg", weights=None)
        model = network(base, tf.keras.layers.Dense(5, activation="softmax"))
        model.compile("adam", "sparse_categorical_crossentropy")
        for name in names:
            expected[name] = model(inputs)
            model.save(folder / "models" / name)
    command = [sys.executable, "-c", LOAD, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return expected, np.load(folder / "received.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for names in FILES.values() for name in names])
def test_networks_on_top_come_back(outputs, name):
    expected, received = outputs
    np.testing.assert_array_equal(received[name], expected[name])


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_frozen_stays_so_in_a_saved_model(tmp_path, whole):
    model = SEResNet14(filters=(4, 8, 16), weights=None)
    for layer in model.layers:
        layer.trainable = not whole and layer.name.startswith("stage3")
    if not whole:
        model.get_layer("stage3_block2_se").reduce.trainable = False
    else:
        model.trainable = False
    model.save(tmp_path / "saved")
    loaded = tf.keras.models.load_model(tmp_path / "saved")
    names = [weight.name for weight in model.trainable_weights]
    assert [weight.name for weight in loaded.trainable_weights] == names
    assert loaded.trainable == model.trainable
    inputs = np.ones((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
