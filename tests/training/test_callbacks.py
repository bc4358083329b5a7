import numpy as np
import pytest

from larq_seresnet.training import callbacks

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


def test_a_broken_epoch_is_no_checkpoint():
    assert callbacks.is_finite({"loss": 1.0, "val_loss": 2.0})
    assert not callbacks.is_finite({"loss": 1.0, "val_loss": np.nan})
    assert not callbacks.is_finite({"loss": np.inf, "val_loss": 1.0})


def test_gate_recorder_leaves_a_model_without_attention_alone(tmp_path, small_model, inputs):
    recorder = callbacks.GateRecorder(tmp_path / "gates.npz", inputs, {1}, "digits")
    recorder.set_model(small_model(attention=None))
    recorder.on_epoch_end(0)
    assert not list(tmp_path.iterdir())
