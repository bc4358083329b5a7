import types

import numpy as np
import pytest

from larq_seresnet.training import callbacks

import tensorflow as tf

HEADER = ",".join(callbacks.LOG_COLUMNS) + "\n"
ROW = "1,0.02,1.5,0.5,1.4,0.4,10.0,100.0,digits\n"


def test_error_is_top_1_error():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]], np.float32)
    targets = np.array([[1, 0, 0], [0.2, 0.55, 0.25]], np.float32)
    np.testing.assert_array_equal(callbacks.error(targets, probabilities), [0, 1])


def test_read_log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + ROW)
    (row,) = callbacks.read_log(path)
    assert row["epoch"] == 1
    assert row["test_error"] == 0.4
    assert row["dataset"] == "digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have the columns"),
        ("epoch,loss\n1,2\n", "must have the columns"),
        (HEADER + ROW + "2,0.01,1.", "a row that was cut off"),
        (HEADER + ROW.replace("1.5", "many"), "a row that was cut off or is no number"),
    ],
)
def test_a_broken_log_is_reported(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        callbacks.read_log(path)


@pytest.mark.parametrize("name", ["Bücher", "two\nlines", 'quoted "," once'])
def test_a_log_goes_on_whatever_its_data_are_called(tmp_path, name):
    images = types.SimpleNamespace(name=name, train=(np.zeros(4),))
    path = tmp_path / "log.csv"
    log = callbacks.ErrorLog(path, images)
    log.set_model(tf.keras.Sequential())
    log.model.compile(tf.keras.optimizers.SGD())
    said = {"loss": 1.0, "error": 0.5, "val_loss": 1.0, "val_error": 0.5}
    for epoch in range(2):
        log.on_epoch_begin(epoch)
        log.on_test_begin()
        log.on_epoch_end(epoch, said)
    before = path.read_bytes()
    callbacks.ErrorLog(path, images, initial_epoch=2)
    assert path.read_bytes() == before
    path.write_bytes(before + b"3,0.1")  # killed while it wrote
    callbacks.ErrorLog(path, images, initial_epoch=1)
    assert [row["dataset"] for row in callbacks.read_log(path)] == [name]


def test_what_is_no_text_is_no_log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes((HEADER + ROW).encode() + b"\xff\n")
    with pytest.raises(ValueError, match=r"log.csv is no text of rows: .*0xff"):
        callbacks.read_log(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "gates.npz is damaged"),
        (lambda content: content[:100] + b"\xff" * 9 + content[109:], "gates.npz is damaged"),
        (lambda content: b"gates", "gates.npz is damaged"),
        (lambda content: content.replace(b"epoch001", b"epoch0x1"), "names like epoch001/stage1"),
    ],
)
def test_broken_gates_are_reported(tmp_path, damage, message):
    path = tmp_path / "gates.npz"
    np.savez_compressed(path, **{"epoch001/stage1_block1_se": np.ones((8, 4), np.float32)})
    assert callbacks.read_gates(path)[1]["stage1_block1_se"].shape == (8, 4)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        callbacks.read_gates(path)


def test_a_broken_epoch_is_no_checkpoint():
    assert callbacks.is_finite({"loss": 1.0, "val_loss": 2.0})
    assert not callbacks.is_finite({"loss": 1.0, "val_loss": np.nan})
    assert not callbacks.is_finite({"loss": np.inf, "val_loss": 1.0})


def test_gate_recorder_leaves_a_model_without_attention_alone(tmp_path, small_model, inputs):
    recorder = callbacks.GateRecorder(tmp_path / "gates.npz", inputs, {1}, "digits")
    recorder.set_model(small_model(attention=None))
    recorder.on_epoch_end(0)
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_anywhere_in_a_checkpoint_never_passes_for_weights(tmp_path, capsys):
    """What is restored is one of two checkpoints to the last bit, or nothing."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(4, input_shape=(3,))])
    model.compile(tf.keras.optimizers.Adam(), "mse")
    checkpoint = callbacks.Checkpoint(tmp_path, model)
    saved = {}
    for epoch in (1, 2):
        for variable in [*model.variables, *model.optimizer.variables]:
            variable.assign(tf.cast(tf.random.uniform(variable.shape, 1, 99), variable.dtype))
        checkpoint.on_epoch_end(epoch - 1, {"loss": 1.0, "val_loss": 1.0})
        saved[epoch] = _state(model)
    generator = np.random.default_rng(0)
    last = sorted(tmp_path.glob("ckpt-2.*"))
    assert len(last) == 2
    fell_back = 0
    for path in last:
        content = path.read_bytes()
        for _ in range(100):
            flipped = bytearray(content)
            flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
            path.write_bytes(flipped)
            found = checkpoint.restore()
            fell_back += found == 1
            for received, expected in zip(_state(model), saved[found], strict=True):
                np.testing.assert_array_equal(received, expected)
        path.write_bytes(content)
    assert checkpoint.restore() == 2
    assert fell_back > 100
    assert capsys.readouterr().err.count("is damaged, and left out") == fell_back


def _state(model):
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
