import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.training import data, ship

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def finished(trained, tmp_path, monkeypatch):
    """A run that may ship, and the folders that it goes to."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained("w1"), run_dir)
    digest = hashlib.sha256(data.load("digits").test[0].tobytes()).hexdigest()
    facts = {"commit": "abc1234", "test_images": 360, "test_images_sha256": digest}
    _change(run_dir, facts, limit_train=None, limit_test=None)
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(ship, "PACKAGE", tmp_path / "package" / "weights")
    monkeypatch.setattr(ship, "LOGS", tmp_path / "logs")
    return run_dir


def _change(run_dir, facts, **arguments):
    config = json.loads((run_dir / "config.json").read_text()) | facts
    config["arguments"] |= arguments
    (run_dir / "config.json").write_text(json.dumps(config))


def test_what_is_shipped_is_what_the_run_computes(finished, tmp_path, capsys):
    ship.LOGS.mkdir()
    other = json.loads(next((ROOT / "results/weights").glob("*w1a1*.json")).read_text())
    (ship.LOGS / "another.json").write_text(json.dumps(other))
    _change(finished, {"resumed": [{"commit": "def5678", "after_epoch": 1}]})
    ship.main([str(finished)])
    name = "seresnet14_w1_se_sigmoid_fmb_4-8-16"
    said = json.loads((ship.LOGS / f"{name}_digits.json").read_text())
    assert said["sha256"] in capsys.readouterr().out
    images, labels = data.load("digits").test
    classes = [
        SEResNet14(filters=(4, 8, 16), weights=path).predict(preprocess_input(images), verbose=0)
        for path in (finished / "weights.h5", ship.PACKAGE / f"{name}_digits.npz")
    ]
    np.testing.assert_allclose(*classes, atol=1e-6)
    assert said["wrong"] == (classes[0].argmax(axis=1) != labels).sum()
    assert (ship.LOGS / f"{name}_digits.csv").read_text() == (finished / "log.csv").read_text()
    card = (ship.PACKAGE / "README.md").read_text()
    assert f"{said['wrong']:,} of {len(labels):,}" in card
    assert "Data set digits, 512 training" in card
    assert "commit abc1234, commit def5678 after epoch 1" in card
    assert other["name"] in card  # it still ships


def test_a_teacher_is_checked_and_its_log_kept(finished, capsys):
    """It may hold images out, and the card does not say where it was."""
    teacher = finished.parent / "mine"
    shutil.copytree(finished, teacher)
    _change(finished, {}, teacher=str(teacher))
    _change(teacher, {"commit": "b-dirty"})
    with pytest.raises(SystemExit):
        ship.main([str(finished)])
    assert "code that was committed, received b-dirty" in capsys.readouterr().err
    _change(teacher, {"commit": "abc1234"}, held_out=60)
    ship.main([str(finished)])
    (log,) = ship.LOGS.glob("*.teacher.csv")
    assert log.read_text() == (teacher / "log.csv").read_text()
    card = (ship.PACKAGE / "README.md").read_text()
    assert f"Its teacher ([log](../../results/weights/{log.name}))" in card
    assert "--teacher runs/teacher" in card
    assert "--held-out 60" in card
    assert "--run-dir runs/teacher" in card
    assert str(teacher) not in "".join(path.read_text() for path in ship.LOGS.glob("*.json"))


@pytest.mark.parametrize(
    ("facts", "arguments", "message"),
    [
        ({"commit": "abc1234-dirty"}, {}, "code that was committed, received abc1234-dirty"),
        ({"commit": None}, {}, "code that was committed, received None"),
        ({"resumed": [{"commit": "a-dirty"}]}, {}, "code that was committed, received a-dirty"),
        ({}, {"weights": "a.h5"}, "must begin with initial weights, or with those that ship"),
        ({}, {"held_out": 50}, "a run on all images, received `held_out` 50"),
        ({}, {"limit_train": 512}, "a run on all images, received `limit_train` 512"),
        ({}, {"epochs": 2}, "must be a finished run, received 1 epochs"),
        ({"test_images_sha256": "a"}, {}, "those that the run began with: `test_images_sha256`"),
    ],
)
def test_runs_that_must_not_ship(finished, capsys, facts, arguments, message):
    _change(finished, facts, **arguments)
    with pytest.raises(SystemExit) as stop:
        ship.main([str(finished)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not ship.PACKAGE.exists()


def test_the_card_is_that_of_the_committed_runs():
    paths = sorted((ROOT / "results/weights").glob("*.json"))
    card = ship.card([json.loads(path.read_text()) for path in paths])
    assert card == (ROOT / "larq_seresnet/weights/README.md").read_text()
