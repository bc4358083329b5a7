import dataclasses
import shutil
import types

import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input
from larq_seresnet.training import callbacks, config, data, facts, teacher, train

import tensorflow as tf


@pytest.fixture(scope="module")
def taught_by(trained, tmp_path_factory):
    """A finished run, in a folder of this module's own: what it says is stored there."""
    return shutil.copytree(trained("w1"), tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def images():
    return data.load("digits", limit_train=60, limit_test=50)


def test_the_nearest_view_is_the_one_that_looks_most_alike():
    """Of 18 views for crops of 4: shifts from -2 to 2 pixels count as 0."""
    found = teacher.views(flip=True, crop=4)
    assert len(found) == len(set(found)) == 18
    said = teacher.Said(np.zeros((1, 18, 10), np.float16), crop=4)
    shift = [[row, column] for row in range(-4, 5) for column in range(-4, 5)] * 2
    mirrored = [False] * 81 + [True] * 81
    numbers = said.nearest(tf.constant(shift).numpy().T, tf.constant(mirrored))
    for (row, column), is_mirrored, number in zip(shift, mirrored, numbers, strict=True):
        view = found[number]
        assert max(abs(row - view[0]), abs(column - view[1])) <= 2
        assert view[2] == is_mirrored
    assert teacher.views(flip=False, crop=0) == [(0, 0, False)]
    alone = teacher.Said(np.zeros((1, 1, 10), np.float16), crop=0)
    np.testing.assert_array_equal(alone.nearest(np.zeros((2, 3), np.int32), [False] * 3), 0)


def test_what_is_said_is_what_the_teacher_sees(taught_by, images):
    """Every view of the third image, against the network itself; stored, and asked once."""
    said = teacher.ask(taught_by, images, True, 2, "float32")
    model = SEResNet14(filters=(4, 8, 16), weights=taught_by / "weights.h5")
    image = images.train[0][2]
    for number, (row, column, mirrored) in enumerate(teacher.views(True, 2)):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
        seen = padded[2 + row : 34 + row, 2 + column : 34 + column]
        if mirrored:
            seen = np.pad(image[:, ::-1], [(2, 2), (2, 2), (0, 0)], mode="reflect")[
                2 + row : 34 + row, 2 - column : 34 - column
            ]
        expected = model(preprocess_input(seen[np.newaxis])).numpy()[0]
        np.testing.assert_allclose(said.probabilities[2, number], expected, atol=2e-3)
    (path,) = taught_by.glob("said_*.npy")
    written = path.stat().st_mtime_ns
    teacher.ask(taught_by, images, True, 2, "float32")
    assert path.stat().st_mtime_ns == written
    others = types.SimpleNamespace(
        train=(images.train[0][:20], None), class_names=images.class_names
    )
    assert teacher.ask(taught_by, others, True, 2, "float32").probabilities.shape == (20, 18, 10)


def test_batches_bring_what_was_said_of_their_images(images):
    """The numbers of image and view, as probabilities."""
    count, views = len(images.train[0]), 18
    numbers = np.stack(np.meshgrid(np.arange(count), np.arange(views), indexing="ij"), axis=-1)
    said = teacher.Said(numbers.astype(np.float16), crop=2)
    options = {"batch_size": 16, "seed": 1, "epochs": 1, "flip": True, "crop": 2}
    rows = np.concatenate(
        [rows for _, _, rows in data.training_batches(images, said=said, **options)]
    ).astype(int)
    plain = data.training_batches(images, **options)
    for (number, view), image in zip(
        rows, np.concatenate([batch for batch, _ in plain]), strict=True
    ):
        row, column, mirrored = teacher.views(True, 2)[view]
        mirror = tf.constant([mirrored])
        looks = [
            preprocess_input(
                data.moved(images.train[0][number : number + 1], tf.constant([[r], [c]]), mirror)
            ).numpy()[0]
            for r in range(max(-2, row - 1), min(2, row + 1) + 1)
            for c in range(max(-2, column - 1), min(2, column + 1) + 1)
        ]
        assert any((look == image).all() for look in looks)


@pytest.mark.slow
def test_a_taught_run_goes_on_with_its_own_teacher_alone(
    taught_by, trained, tmp_path, capsys, monkeypatch
):
    given = []
    with_targets = data.with_targets
    monkeypatch.setattr(
        data,
        "with_targets",
        lambda batches, *words: (
            given.append((batches.element_spec, *words)) or with_targets(batches, *words)
        ),
    )
    run_dir = tmp_path / "run"
    flags = (
        "--dataset digits --limit-train 128 --limit-test 50 --batch-size 64 --filters 4 8 16 "
        f"--attention none --compute-dtype float32 --deterministic --epochs 2 "
        f"--teacher {taught_by} --teacher-share 0.4 --teacher-temperature 3"
    ).split()
    train.main([*flags, "--stop-after", "1", "--run-dir", str(run_dir)])
    (spec, *words), _ = given
    assert words == [10, 0.4, 3.0]
    assert spec[2].shape == (None, 10)  # what the teacher said
    moved = taught_by.rename(taught_by.with_name("moved"))
    weights = (moved / "weights.h5").read_bytes()
    resume = ["--resume", "--run-dir", str(run_dir)]
    for words, message in (
        ([], "`teacher` must be the directory of a finished run, received"),
        (["--teacher", str(trained("w1a1"))], "has other weights than the run began with"),
    ):
        with pytest.raises(SystemExit) as stop:
            train.main([*resume, *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    train.main([*resume, "--teacher", str(moved)])
    assert config.load(run_dir)[0].teacher == str(moved)
    assert len(callbacks.read_log(run_dir / "log.csv")) == 2
    assert (moved / "weights.h5").read_bytes() == weights
    moved.rename(taught_by)


def test_a_teacher_that_cannot_be_asked_costs_no_earlier_run(taught_by, tmp_path, capsys):
    run_dir, damaged, begun = (tmp_path / name for name in ("run", "damaged", "begun"))
    for copy in (run_dir, damaged, begun):
        shutil.copytree(taught_by, copy, ignore=shutil.ignore_patterns("said_*"))
    content = bytearray((damaged / "weights.h5").read_bytes())
    content[len(content) // 2 :: 64] = bytes(len(content[len(content) // 2 :: 64]))
    (damaged / "weights.h5").write_bytes(content)
    settings = config.load(begun)[0]
    dataclasses.replace(settings, epochs=2).save(begun, **config.load(begun)[1])
    flags = "--dataset digits --limit-train 64 --limit-test 50 --filters 4 8 16 --overwrite".split()
    for given, message in (
        (damaged, "damaged"),
        (begun, "after 1 of 2 epochs"),
        ("", "must be the directory of a finished run"),
    ):
        with pytest.raises(SystemExit) as stop:
            train.main([*flags, "--run-dir", str(run_dir), "--teacher", str(given)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert (run_dir / "log.csv").exists()


def test_a_teacher_that_has_seen_the_images_held_out_is_refused(taught_by, images, tmp_path):
    assert teacher.check(taught_by, images).held_out is None
    with pytest.raises(ValueError, match="`held_out` 10 or more, received None"):
        teacher.check(taught_by, images, held_out=10)
    other = shutil.copytree(taught_by, tmp_path / "other")
    settings, known = config.load(other)
    dataclasses.replace(settings, held_out=20).save(other, **known | facts.of_data(images))
    assert teacher.check(other, images, held_out=20).held_out == 20
    with pytest.raises(ValueError, match="`held_out` 21 or more, received 20"):
        teacher.check(other, images, held_out=21)
    elsewhere = dataclasses.replace(images, name="other digits")
    assert teacher.check(other, elsewhere, held_out=20)
    with pytest.raises(ValueError, match="`held_out` 21 or more, received 20"):
        teacher.check(other, elsewhere, held_out=21)


def test_a_teacher_of_other_images_is_refused(taught_by, images):
    for changed, message in (
        ({"class_names": ("a", "b")}, "must know the same classes"),
        (
            {"train": (np.zeros((2, 16, 16, 3), np.uint8), None)},
            r"must take images of \(16, 16, 3\)",
        ),
    ):
        other = types.SimpleNamespace(**{**vars(images), **changed})
        with pytest.raises(ValueError, match=message):
            teacher.ask(taught_by, other, True, 2, "float32")
