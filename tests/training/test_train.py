import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from larq_seresnet import SEResNet14, files, save_weights
from larq_seresnet.export import source
from larq_seresnet.training import (
    batch_norm,
    callbacks,
    config,
    data,
    facts,
    fitting,
    machine,
    optimizers,
    train,
)

import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--dataset digits --limit-train 192 --limit-test 50 --batch-size 64 --filters 4 8 16 "
    "--compute-dtype float32"
).split()


#: Where gates mean nothing: a network that is built and traced in two thirds of the time.
NO_GATES = ("--attention", "none")


#: Of a run that is cut off in some way, and must end as one that was not.
BROKEN = ("--epochs", 3, "--deterministic", *NO_GATES)


def _train(run_dir, *flags):
    return train.main([*TINY, "--run-dir", str(run_dir), *map(str, flags)])


@pytest.fixture(scope="session")
def unbroken(shared):
    """The run directory of a run with the flags `BROKEN` that was not; not to be changed."""
    return shared("unbroken", lambda path: _train(path, *BROKEN))


def _curve(run_dir):
    """log.csv without what the clock says."""
    rows = callbacks.read_log(run_dir / "log.csv")
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def _fails(capsys, *arguments, status=2):
    with pytest.raises(SystemExit) as stop:
        train.main([str(argument) for argument in arguments])
    assert stop.value.code == status
    return capsys.readouterr().err


def test_a_run_directory_holds_everything(trained):
    run_dir = trained("w1")
    names = {path.name for path in run_dir.iterdir()}
    assert names >= {
        "config.json",
        "log.csv",
        "checkpoint",
        "weights.h5",
        "gates.npz",
        "curves.png",
        "tensorboard",
    }
    settings, facts = config.load(run_dir)
    assert settings.filters == (4, 8, 16)
    assert settings.dataset == "digits"
    assert settings.flip is False
    assert settings.compute_dtype == "float32"
    assert facts["class_names"] == list("0123456789")
    assert (facts["train_images"], facts["test_images"]) == (512, 100)
    assert facts["versions"]["larq"].startswith("0.")
    assert facts["processor"] == f"{os.cpu_count()} cores of {machine.processor()}"
    (row,) = callbacks.read_log(run_dir / "log.csv")
    assert row["epoch"] == 1
    assert row["dataset"] == "digits"
    assert 0 < row["train_error"] < 1
    assert row["images_per_second"] == pytest.approx(512 / row["seconds"], rel=0.05)
    assert list((run_dir / "tensorboard").rglob("events*"))
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_weights_reproduce_the_logged_error(trained):
    run_dir = trained("w1")
    model = SEResNet14(filters=(4, 8, 16), weights=run_dir / "weights.h5")
    images = data.load("digits", limit_train=512, limit_test=100)
    model.compile(loss="categorical_crossentropy", metrics=[callbacks.error])
    loss, error = model.evaluate(data.with_targets(data.test_batches(images), 10), verbose=0)
    (row,) = callbacks.read_log(run_dir / "log.csv")
    assert error == pytest.approx(row["test_error"], abs=1e-6)  # to the image
    assert loss == pytest.approx(row["test_loss"], abs=1e-4)


def test_gates_are_those_of_the_model(trained):
    run_dir = trained("w1")
    model = SEResNet14(filters=(4, 8, 16), weights=run_dir / "weights.h5")
    images = data.load("digits", limit_train=512, limit_test=100)
    inputs = next(iter(data.test_batches(images)))[0]
    with np.load(run_dir / "gates.npz", allow_pickle=False) as gates:
        assert gates["dataset"] == "digits"
        blocks = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
        expected = {f"epoch001/{block}_{part}" for block in blocks for part in ("se", "fmb")}
        assert set(gates.files) == expected | {"dataset"}
        for block in blocks:
            attention = tf.keras.Model(model.input, model.get_layer(f"{block}_se").output)(inputs)
            recorded = gates[f"epoch001/{block}_se"]
            np.testing.assert_allclose(recorded, attention[:, 0, 0], atol=1e-5)
            np.testing.assert_array_equal(gates[f"epoch001/{block}_fmb"], recorded >= 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fast", "plain"])
def test_two_epochs_and_two_resumed_equal_four(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(batch_norm, "IMAGES", 64)  # fewer than there are, and than at the end
    monkeypatch.setattr(batch_norm, "LAST_IMAGES", 128)
    flags = ["--recipe", recipe, "--deterministic", "--gate-epochs", 2]
    flags += ["--relaxation", 1] if recipe == "fast" else []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _train(whole, *flags, "--epochs", 4)
    if recipe == "fast":
        _train(parts, *flags, "--epochs", 4, "--stop-after", 2)
        train.main(["--resume", "--run-dir", str(parts)])
    else:
        _train(parts, *flags, "--epochs", 2)
        train.main(["--resume", "--run-dir", str(parts), "--epochs", "4"])
    assert _curve(parts) == _curve(whole)
    assert len(_curve(whole)) == 4
    _, facts = config.load(parts)
    assert [each["after_epoch"] for each in facts["resumed"]] == [2]
    rates = [row["learning_rate"] for row in _curve(whole)]
    assert (len(set(rates)) == 1) == (recipe == "plain")
    loaded = [SEResNet14(filters=(4, 8, 16), weights=run / "weights.h5") for run in (whole, parts)]
    for expected, received in zip(loaded[0].get_weights(), loaded[1].get_weights(), strict=True):
        np.testing.assert_array_equal(expected, received)
    with np.load(parts / "gates.npz") as gates:
        epochs = {name.split("/")[0] for name in gates.files} - {"dataset"}
    assert epochs == {"epoch001", "epoch002", "epoch004"}


def _cut_off_in_the_second_epoch(monkeypatch, callback, method, *arguments):
    """Trains until a callback's method sees the second epoch, as if the process was killed."""
    whole = getattr(callback, method)

    def cut_off(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        whole(self, epoch, logs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(callback, method, cut_off)
        _train(*arguments)
    assert stop.value.code == 130


@pytest.mark.slow
def test_a_run_killed_while_it_wrote_goes_on_after_its_last_whole_epoch(tmp_path, monkeypatch):
    """Killed before the second epoch's gates were written, and in the middle of a row."""
    run_dir = tmp_path / "run"
    recorder = callbacks.GateRecorder
    _cut_off_in_the_second_epoch(monkeypatch, recorder, "on_epoch_end", run_dir, "--epochs", 2)
    first, _ = _curve(run_dir)  # the second is in the log, and no epoch of the checkpoint
    with open(run_dir / "log.csv", "a") as log:
        log.write("3,0.01,1.")
    train.main(["--resume", "--run-dir", str(run_dir)])
    rows = _curve(run_dir)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0] == first
    with np.load(run_dir / "gates.npz") as gates:
        assert {name.split("/")[0] for name in gates.files} == {"dataset", "epoch001", "epoch002"}
    weights = (run_dir / "weights.h5").read_bytes()
    (run_dir / "weights.h5").unlink()
    train.main(["--resume", "--run-dir", str(run_dir)])
    assert (run_dir / "weights.h5").read_bytes() == weights
    assert _curve(run_dir) == rows


def test_a_run_cut_off_while_its_directory_was_made_begins_anew(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"

    def cut_off(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks, "ErrorLog", cut_off)
    with pytest.raises(SystemExit):
        _train(run_dir, "--epochs", 1, *NO_GATES)
    monkeypatch.undo()
    assert list(run_dir.iterdir())
    _train(run_dir, "--resume", "--epochs", 1, *NO_GATES)
    assert len(_curve(run_dir)) == 1


def test_resume_begins_where_nothing_is(tmp_path, capsys):
    """So that a scheduler may repeat one command until it is done."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "log.csv.123.part").write_text("epo")
    for _ in range(2):
        _train(run_dir, "--resume", "--epochs", 1, *NO_GATES)
        assert len(_curve(run_dir)) == 1
    assert capsys.readouterr().err.count("holds no run to go on with: it begins") == 1
    assert not list(run_dir.glob("*.part"))


def test_without_a_checkpoint_nothing_that_was_trained_is_lost(trained, tmp_path, capsys):
    """A run of `collect.py` that is finished has none, and some delete it to save space."""
    run_dir = shutil.copytree(trained("w1"), tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoint")
    resume = ("--resume", "--run-dir", run_dir)
    kept = {name: (run_dir / name).read_bytes() for name in ("weights.h5", "log.csv")}
    epochs = len(_curve(run_dir))
    train.main([*map(str, resume)])
    assert "resumed" not in config.load(run_dir)[1]
    settings = json.loads((run_dir / "config.json").read_text())
    settings["arguments"] |= {"schedule": "constant", "relaxation": 0.0}
    (run_dir / "config.json").write_text(json.dumps(settings))
    message = _fails(capsys, *resume, "--epochs", epochs + 1)
    assert f"has no checkpoint of its {epochs} epochs to go on from" in message
    assert {name: (run_dir / name).read_bytes() for name in kept} == kept
    (run_dir / "weights.h5").unlink()
    (run_dir / "log.csv").write_bytes(kept["log.csv"] + kept["log.csv"].splitlines(True)[-1])
    assert "has no checkpoint of its" in _fails(capsys, *resume)


def test_a_command_with_a_flag_that_means_nothing_resumes_its_run(trained, tmp_path):
    """`w1` has no 1-bit inputs to relax."""
    run_dir = shutil.copytree(trained("w1"), tmp_path / "run")
    train.main(["--resume", "--run-dir", str(run_dir), "--relaxed-inputs"])
    assert not config.load(run_dir)[0].relaxed_inputs


def test_damaged_gate_records_are_refused_before_an_epoch_is_trained(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained("w1"), tmp_path / "run")
    (run_dir / "gates.npz").write_bytes(b"gates")
    kept = (run_dir / "config.json").read_bytes()
    assert "gates.npz is damaged" in _fails(capsys, "--resume", "--run-dir", run_dir)
    assert (run_dir / "config.json").read_bytes() == kept


def test_a_run_that_another_process_writes_is_left_alone(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(trained("w1"), run_dir)
    with files.locked(run_dir):
        message = _fails(capsys, "--resume", "--run-dir", run_dir)
        assert f"is being written by another process, {os.getpid()} on " in message
        message = _fails(capsys, "--dataset", "digits", "--run-dir", run_dir, "--overwrite")
        assert "is being written by another process" in message
    assert (run_dir / "weights.h5").exists()


@pytest.mark.slow
def test_where_the_last_checkpoint_is_damaged_the_one_before_is_taken(unbroken, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(unbroken, run_dir)
    expected, rows = (run_dir / "weights.h5").read_bytes(), _curve(run_dir)
    kept = {path: path.read_bytes() for path in (run_dir / "checkpoint").glob("ckpt-*")}
    last = [path for path in kept if path.name.startswith("ckpt-3")]
    assert len(kept) == 2 * len(last) == 4
    for path in [*last, run_dir / "checkpoint" / "checkpoint"]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        train.main(["--resume", "--run-dir", str(run_dir)])
        assert ("ckpt-3 is damaged, and left out" in capsys.readouterr().err) == (path in last)
        assert _curve(run_dir) == rows
        assert (run_dir / "weights.h5").read_bytes() == expected
    for path, content in kept.items():
        path.write_bytes(content[: len(content) // 2])
    assert "holds a damaged checkpoint" in _fails(capsys, "--resume", "--run-dir", run_dir)


def test_nothing_is_overwritten_or_changed_unasked(trained, tmp_path, capsys):
    run_dir = trained("w1")
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    digits = ("--dataset", "digits", "--run-dir", run_dir)
    message = _fails(capsys, *digits)
    assert "--resume" in message
    assert "--overwrite" in message
    resume = ("--resume", "--run-dir", run_dir)
    message = _fails(capsys, *resume, "--precision", "w1a1")
    assert (
        "`precision` of a run cannot change when it is resumed: it is w1, received w1a1" in message
    )
    assert "see --stop-after" in _fails(capsys, *resume, "--epochs", 9)
    assert "--resume needs --run-dir" in _fails(capsys, "--resume")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    (tmp_path / "thesis.txt").write_text("all of it")
    assert "is not a run directory" in _fails(capsys, "--resume", "--run-dir", tmp_path)
    message = _fails(capsys, *digits[:3], tmp_path, "--overwrite")
    assert "is no earlier run, so --overwrite leaves it alone" in message
    (tmp_path / "config.json").write_text('{"name": "of another program"}')
    message = _fails(capsys, *digits[:3], tmp_path, "--overwrite")
    assert "is no earlier run, so --overwrite leaves it alone" in message
    assert (tmp_path / "thesis.txt").exists()


def test_run_directories_that_tensorflow_takes_for_patterns_are_refused(tmp_path, capsys):
    """It found no checkpoint to resume from, and with a star deleted those of other runs."""
    run_dir = tmp_path / "birds [v2]"
    message = _fails(capsys, "--dataset", "digits", "--run-dir", run_dir)
    assert "`run_dir` must have a path without * ? [" in message
    assert not run_dir.exists()
    settings = config.Config(dataset="cifar10:3.*.*")
    model = SEResNet14(weights=None)
    assert str(train._default_run_dir(model, settings)).startswith(f"runs/{model.name}_cifar10_3._")


@pytest.mark.slow
def test_the_command_that_began_a_run_resumes_it_also_where_its_folder_moved(
    folder, tmp_path, monkeypatch, capsys
):
    """Though config.json has the folder's whole path, and what `auto` was."""
    monkeypatch.chdir(folder.parent)
    run_dir = tmp_path / "run"
    flags = f"--compute-dtype auto --filters 4 8 16 --run-dir {run_dir} --epochs 2 "
    flags += "--attention none --dataset"
    train.main([*flags.split(), folder.name, "--stop-after", "1"])
    moved = folder.rename(folder.parent / "elsewhere")
    resume = ("--resume", "--run-dir", run_dir)
    message = _fails(capsys, *resume)
    assert f"{folder} is gone" in message
    assert "--dataset NEW" in message
    other = moved / "red" / "1.png"
    kept = other.read_bytes()
    other.write_bytes((moved / "blue" / "1.png").read_bytes())
    assert "the data must be those" in _fails(capsys, *resume, "--dataset", moved)
    other.write_bytes(kept)
    train.main([*flags.split(), moved.name, "--resume"])
    assert config.load(run_dir)[0].dataset == str(moved)
    assert len(_curve(run_dir)) == 2


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_later(tmp_path, capsys):
    """Files may grow to so many bytes: too few for config.json, for gates, for a checkpoint."""
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    flags = ("--epochs", 2, "--deterministic")
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (100, 3_000, 20_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
            with pytest.raises(SystemExit) as stop:
                _train(run_dir, *flags, "--resume")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        assert stop.value.code == 1
        assert ": error: " in capsys.readouterr().err.splitlines()[-1]
        assert not list(run_dir.rglob("*.part"))
    _train(run_dir, *flags, "--resume")
    _train(whole, *flags)
    assert _curve(run_dir) == _curve(whole)
    assert (run_dir / "weights.h5").read_bytes() == (whole / "weights.h5").read_bytes()


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(unbroken, tmp_path, monkeypatch):
    """A year back with every second look at it; but for what is said of seconds."""
    jumping = tmp_path / "jumping"
    now, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() - 3e7 * (next(looks) % 2))
    _train(jumping, *BROKEN, "--stop-after", 2)
    _train(jumping, *BROKEN, "--resume")
    assert next(looks)
    assert _curve(jumping) == _curve(unbroken)
    assert (jumping / "weights.h5").read_bytes() == (unbroken / "weights.h5").read_bytes()


@pytest.mark.slow
def test_overwriting_and_beginning_with_weights(trained, tmp_path):
    """Rate so low that nothing moves: what is saved is what it began with, but for BatchNorm."""
    run_dir, weights = tmp_path / "run", trained("w1") / "weights.h5"
    shutil.copytree(trained("w1"), run_dir)
    shutil.move(run_dir / "tensorboard", tmp_path)  # to another disk
    (run_dir / "tensorboard").symlink_to(tmp_path / "tensorboard")
    still = ("--epochs", 1, "--learning-rate", 1e-30, "--kernel-rate", 1e-30)
    _train(run_dir, "--overwrite", "--weights", weights, *still)
    assert len(_curve(run_dir)) == 1
    assert list((tmp_path / "tensorboard").iterdir())
    begun, ended = (
        SEResNet14(filters=(4, 8, 16), weights=path).trainable_weights
        for path in (weights, run_dir / "weights.h5")
    )
    for one, other in zip(begun, ended, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_a_run_begins_with_is_not_deleted_first(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(trained("w1"), run_dir)
    for flags in (["--weights", run_dir / "weights.h5"], ["--teacher", run_dir]):
        digits = ["--dataset", "digits", "--run-dir", run_dir, "--overwrite"]
        assert f"`{flags[0][2:]}`" in _fails(capsys, *digits, *flags)
    assert (run_dir / "weights.h5").exists()


def test_a_run_and_its_images_lie_apart(folder, tmp_path, capsys):
    """Else --overwrite deletes the images, or the run is taken for a class of them."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.json").write_text('{"arguments": {}}')
    images = shutil.copytree(folder, run_dir / "images")
    message = _fails(capsys, "--dataset", images, "--run-dir", run_dir, "--overwrite")
    assert f"`dataset` {images} must not be in `run_dir` {run_dir}: it would be lost" in message
    assert (run_dir / "config.json").exists()
    assert len(list(images.rglob("*.*"))) == 20
    message = _fails(capsys, "--dataset", folder, "--run-dir", folder / "runs" / "first")
    assert "it would be taken for a class of images" in message
    assert not (folder / "runs").exists()


def test_held_out_images_are_told_by_what_they_show(numbered, tmp_path):
    """Not by the name of their folder, which may have moved, or by their number."""
    held_out = {"size": (8, 8), "held_out": 4}
    images = data.load(str(numbered(20, 20)), **held_out)
    settings = config.Config(dataset=images.name, held_out=4, input_shape=(8, 8, 3))
    known = facts.of_data(images)
    moved = data.load(str(shutil.copytree(numbered(20, 20), tmp_path / "moved")), **held_out)
    for now in (images, moved):
        data.check_unseen("`weights`", now, 4, settings, known)
    everything = dataclasses.replace(settings, held_out=None)
    with pytest.raises(ValueError, match="with `held_out` 4, received None"):
        data.check_unseen("`weights`", moved, 4, everything, known)
    grown = data.load(str(numbered(21, 21)), **held_out)
    fewer = data.load(images.name, size=(8, 8), held_out=3)  # by name, with more held out before
    named_alike = data.load("digits", size=(8, 8), held_out=4)
    for now, received in ((grown, known), (fewer, known), (grown, {}), (named_alike, known)):
        count = len(now.test[0])
        with pytest.raises(ValueError, match="received a run that held out 4 other images of"):
            data.check_unseen("`weights`", now, count, settings, received)
    before = config.Config(dataset="digits", held_out=9, input_shape=(8, 8, 3))
    data.check_unseen("`weights`", named_alike, 4, before, {})  # a set that stays as it is


def test_weights_that_know_the_held_out_images_are_refused(trained, tmp_path, capsys):
    """They would be tested on what they were trained on; those that held out as many are not."""
    digits = ["--dataset", "digits", "--held-out", 9, "--run-dir", tmp_path / "run", "--weights"]
    weights = trained("w1") / "weights.h5"
    message = _fails(capsys, *digits, weights)
    assert "must be trained without the images that are held out" in message
    assert "with `held_out` 9 or more, received None" in message
    save_weights(SEResNet14(weights=None), tmp_path / "own.h5", "digits")
    assert "received weights of no run" in _fails(capsys, *digits, tmp_path / "own.h5")
    settings, facts = config.load(trained("w1"))
    run_dir = tmp_path / "earlier"
    run_dir.mkdir()
    dataclasses.replace(settings, held_out=9).save(run_dir, **facts)
    shutil.copy(weights, run_dir)
    images = data.load("digits", held_out=9)
    begun = dataclasses.replace(settings, held_out=9, weights=str(run_dir / "weights.h5"))
    train._check_unseen(begun, images)


def test_weights_bring_the_size_of_their_images(tmp_path):
    save_weights(SEResNet14(input_shape=(48, 40, 3), weights=None), tmp_path / "own.h5")
    assert train._of_weights(str(tmp_path / "own.h5"))["input_shape"] == [48, 40, 3]
    model = SEResNet14(include_top=False, input_shape=(None, None, 3), weights=None)
    save_weights(model, tmp_path / "any.h5")
    assert "input_shape" not in train._of_weights(str(tmp_path / "any.h5"))


def test_a_run_goes_on_with_the_data_it_began_with(trained, tmp_path, capsys):
    """Another copy of the test images, such as those of the lossless set, has other bytes."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained("w1"), run_dir)
    settings = json.loads((run_dir / "config.json").read_text())
    settings["test_images_sha256"] = "of others"
    (run_dir / "config.json").write_text(json.dumps(settings))
    rows = (run_dir / "log.csv").read_text()
    message = _fails(capsys, "--resume", "--run-dir", run_dir)
    assert (
        "the data must be those that the run began with: `test_images_sha256` was of others"
        in message
    )
    assert (run_dir / "log.csv").read_text() == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (f"--batch-size {10**20}", "`batch_size` must be at most 2,147,483,647, received 1000"),
        ("--input-shape 1000000 1000000 3", "TMPDIR may name another place"),
        ("--epochs 0", "`epochs` must be positive, received 0"),
        ("--reduction-ratio 3", "`reduction_ratio` must be a positive integer that divides"),
        ("--stop-after 11", "`stop_after` must be from 1 to `epochs`, 10, received 11"),
        ("--precision w2", "argument --precision: invalid choice: 'w2'"),
        ("--resume --overwrite", "not allowed with argument"),
        ("--epoch 3", "unrecognized arguments: --epoch 3"),
        ("--limit-train 9999", "`limit_train` must be from 1 to 1437, received 9999"),
        ("--weights nowhere.h5", "`weights` must be None, 'cifar10', or the path"),
    ],
)
def test_bad_flags_are_refused_and_write_nothing(flags, message, tmp_path, capsys):
    run_dir = tmp_path / "run"
    printed = _fails(capsys, "--dataset", "digits", "--run-dir", run_dir, *flags.split())
    assert message in printed
    assert not run_dir.exists()


def test_a_diverged_run_fails_and_keeps_no_broken_checkpoint(tmp_path, monkeypatch):
    def nan(*arguments):
        return tf.constant(np.nan)

    monkeypatch.setattr(optimizers.OneCycle, "__call__", nan)
    with pytest.raises(SystemExit, match="training diverged"):
        _train(tmp_path / "run", "--epochs", 1)
    assert not list((tmp_path / "run").glob("checkpoint/ckpt*"))
    assert not (tmp_path / "run" / "weights.h5").exists()


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="no prepared CIFAR-10")
def test_the_readmes_command_on_a_piece_of_cifar10(tmp_path):
    """In a process of its own, as a user starts it: data set found, bfloat16 where it pays."""
    command = [sys.executable, "training/train.py", "--fmb", "--activation", "sigmoid"]
    flags = "--limit-train 1000 --limit-test 250 --epochs 3 --batch-size 25 --run-dir".split()
    process = subprocess.run(
        [*command, *flags, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    rows = callbacks.read_log(tmp_path / "run" / "log.csv")
    assert {row["dataset"] for row in rows} == {"cifar10"}
    assert rows[-1]["train_error"] < 0.75
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train_images"] == 1000


def test_models_that_differ_in_a_layer_begin_with_the_same_weights_elsewhere():
    settings = config.Config(dataset="digits", filters=(4, 8, 16), compute_dtype="float32", seed=3)
    images = data.load("digits", limit_train=8, limit_test=8)

    def initial(**arguments):
        model = fitting.compiled_model(dataclasses.replace(settings, **arguments), images)
        return {weight.name: weight.numpy() for weight in model.trainable_weights}

    whole, control = initial(), initial(attention=None)
    other_seed = initial(seed=4)
    assert control.keys() < whole.keys()
    for name, values in control.items():
        np.testing.assert_array_equal(values, whole[name], name)
    kernels = [name for name, values in whole.items() if values.ndim > 1]
    assert all(np.abs(whole[name] - other_seed[name]).max() > 0 for name in kernels)
    same_shape = [whole[name] for name in kernels if whole[name].shape == (3, 3, 4, 4)]
    assert np.abs(same_shape[0] - same_shape[1]).max() > 0


def test_a_run_that_holds_images_out_never_sees_the_test_set(tmp_path):
    run_dir = _train(tmp_path / "run", "--epochs", 1, "--held-out", 60, *NO_GATES)
    settings, facts = config.load(run_dir)
    assert settings.held_out == 60
    assert (facts["train_images"], facts["test_images"]) == (192, 50)
    held_out = data.load("digits", held_out=60, limit_test=50).test[0]
    assert facts["test_images_sha256"] == hashlib.sha256(held_out.tobytes()).hexdigest()
    assert set(map(bytes, held_out)) <= set(map(bytes, data.load("digits").train[0]))


def test_where_data_are_does_not_depend_on_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = types.SimpleNamespace(name="digits", mirror=True)
    settings = fitting.resolved(config.Config(data_dir="sets"), images)
    assert settings.data_dir == str(tmp_path / "sets")
    assert source._data_dir(settings) is None  # it moved, or this is another machine
    (tmp_path / "sets").mkdir()
    assert source._data_dir(settings) == settings.data_dir
    assert source._data_dir(None) is None


def test_what_was_made_of_earlier_weights_is_named(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    _train(run_dir, "--recipe", "plain", "--epochs", 1, *NO_GATES)
    (run_dir / "pruned").mkdir()
    for name in ("lce_1bit.tflite", "pruned/weights.h5"):
        (run_dir / name).touch()
    _train(run_dir, "--resume", "--epochs", 2)
    said = capsys.readouterr().out
    assert "to be made anew: lce_1bit.tflite, pruned/weights.h5" in said
