import json

import numpy as np
import pytest

from larq_seresnet import SEResNet14, save_weights
from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.training import gates
from larq_seresnet.training.study import occupancy

import tensorflow as tf


def test_shares_by_hand():
    opened = np.array([[1, 0, 1, 1], [1, 0, 0, 1]], bool)
    assert gates.shares({"b": opened, "c": ~opened[:, :2]}) == {
        "b": {
            "channels": 4,
            "always": 2,
            "sometimes": 1,
            "never": 1,
            "open": 0.625,
            "of_each": [1.0, 0.0, 0.5, 1.0],
        },
        "c": {
            "channels": 2,
            "always": 1,
            "sometimes": 0,
            "never": 1,
            "open": 0.5,
            "of_each": [0.0, 1.0],
        },
    }
    text = gates.table(gates.shares({"b": opened, "c": ~opened[:, :2]}))
    assert "| b | 4 | 2 | 1 | 1 | 62.5% |" in text
    assert "| all | 6 | 3 | 1 | 2 | 58.3% |" in text


@pytest.mark.parametrize(
    "arguments", [{}, {"fmb": False, "activation": "tanh"}, {"attention": None}]
)
def test_a_network_says_of_each_image_what_its_layers_say(
    small_model, images, inputs, arguments, monkeypatch
):
    """In batches, whose last is smaller; with FMB and without."""
    monkeypatch.setattr(gates, "BATCH_SIZE", 3)
    model = small_model(**arguments)
    seen = gates.see(model, images)
    np.testing.assert_allclose(seen.probabilities, model(inputs), atol=1e-5)
    assert len(seen.open) == (6 if arguments.get("attention", "se") else 0)
    threshold = GATE_ACTIVATIONS[arguments.get("activation", "sigmoid")].threshold
    for block, opened in seen.open.items():
        attention = tf.keras.Model(model.input, model.get_layer(f"{block}_se").output)(inputs)
        near = np.abs(attention[:, 0, 0] - threshold) < 1e-5
        np.testing.assert_array_equal(opened | near, (attention[:, 0, 0] >= threshold) | near)


def test_a_run_gets_table_and_figure(trained, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.json", "weights.h5"):
        (run_dir / name).write_bytes((trained("w1") / name).read_bytes())
    occupancy.main([str(run_dir)])
    found = json.loads((run_dir / "occupancy.json").read_text())
    assert [each["channels"] for each in found.values()] == [4, 4, 8, 8, 16, 16]
    assert "| all | 56 |" in (run_dir / "occupancy.md").read_text()
    assert (run_dir / "occupancy.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_shares_are_the_same_picture(tmp_path):
    """Reports are compared with their logs file by file."""
    found = gates.shares({"b": np.eye(3, dtype=bool)})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        gates.write(found, tmp_path / folder, "")
    one, two = (tmp_path / folder / "occupancy.svg" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_what_has_no_gates_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        occupancy.main([str(tmp_path / "nothing")])
    assert stop.value.code == 2
    assert "nothing does not exist: a run directory or a weight file" in capsys.readouterr().err
    save_weights(SEResNet14(attention=None, filters=(4, 4, 4), weights=None), tmp_path / "no.h5")
    with pytest.raises(SystemExit):
        occupancy.main([str(tmp_path / "no.h5"), "--dataset", "digits"])
    assert "no.h5 has no gates of channels" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["no.h5"]
