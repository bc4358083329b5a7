import os

import numpy as np
import pytest

from larq_seresnet.preprocessing import MEAN, STD, preprocess_input
from larq_seresnet.training import data

import tensorflow as tf


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits(digits):
    images, labels = digits.train
    assert images.shape == (1437, 32, 32, 3)
    assert digits.test[0].shape == (360, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")
    assert (np.bincount(digits.test[1]) > 30).all()


def test_limits_keep_every_class_and_refuse_too_much(digits):
    limited = data.load("digits", limit_train=200, limit_test=7)
    assert len(limited.train[0]) == 200
    assert len(limited.test[1]) == 7
    assert len(np.unique(limited.train[1])) == 10
    with pytest.raises(ValueError, match="`limit_train` must be from 1 to 1437, received 1438"):
        data.load("digits", limit_train=1438)


@pytest.mark.parametrize("limit", [0, -5])
def test_limits_below_one_are_refused(limit):
    with pytest.raises(ValueError, match=f"`limit_test` must be at least 1, received {limit}"):
        data.load("digits", limit_test=limit)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="no prepared CIFAR-10")
def test_cifar10():
    images = data.load("cifar10", limit_train=2000, limit_test=100)
    assert images.train[0].shape == (2000, 32, 32, 3)
    assert len(images.test[0]) == 100
    assert images.class_names[3] == "cat"
    mean = images.train[0].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, MEAN, atol=3)
    assert images.mirror


def test_augment_shifts_and_mirrors():
    columns = np.tile(np.arange(32, dtype=np.uint8)[None, None, :, None], (256, 32, 1, 3))
    columns[..., 1] = columns[..., 0].transpose(0, 2, 1)  # of this channel, the rows
    augmented = data.augment(columns, [1, 2], flip=True, crop=4).numpy()
    assert augmented.dtype == np.uint8
    row = augmented[:, 0, :, 0].astype(int)
    mirrored = row[:, 12] > row[:, 18]
    assert 90 < mirrored.sum() < 166
    shift = np.where(mirrored, 15 - row[:, 16], row[:, 16] - 16)
    assert set(shift) == set(range(-4, 5))
    column = augmented[:, 4:28, 0, 1].astype(int)
    down = column - np.arange(4, 28)
    np.testing.assert_array_equal(down, down[:, :1].repeat(24, axis=1))
    assert set(down[:, 0]) == set(range(-4, 5))
    assert abs(np.corrcoef(shift, down[:, 0])[0, 1]) < 0.3
    again = data.augment(columns, [1, 2], flip=True, crop=4).numpy()
    np.testing.assert_array_equal(augmented, again)
    assert (augmented != data.augment(columns, [1, 3], flip=True, crop=4).numpy()).any()
    np.testing.assert_array_equal(data.augment(columns, [1, 2], flip=False, crop=0), columns)
    upright = data.augment(columns, [1, 2], flip=False, crop=4).numpy()[:, 0, :, 0].astype(int)
    assert (upright[:, 12] < upright[:, 18]).all()


def test_augment_reflects_at_the_border():
    index = data._reflect(tf.range(-4, 36), 32).numpy()
    np.testing.assert_array_equal(index[:5], [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(index[-5:], [31, 30, 29, 28, 27])


def test_training_batches_depend_on_seed_and_epoch_alone(digits):
    def labels(**options):
        batches = data.training_batches(digits, batch_size=500, flip=False, crop=4, **options)
        return [(x.numpy(), y.numpy()) for x, y in batches]

    whole = labels(seed=3, epochs=2)
    second = labels(seed=3, epochs=2, initial_epoch=1)
    assert [len(y) for _, y in whole] == 2 * [500, 500, 437]
    for (x, y), (expected_x, expected_y) in zip(second, whole[3:], strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
    assert (whole[0][1] != whole[3][1]).any()
    assert (whole[0][1] != labels(seed=4, epochs=1)[0][1]).any()
    epoch = np.concatenate([y for _, y in whole[:3]])
    np.testing.assert_array_equal(np.bincount(epoch), np.bincount(digits.train[1]))
    values = np.concatenate([x for x, _ in whole[:3]])
    assert values.dtype == np.float32
    assert values.min() == pytest.approx(min(-m / s for m, s in zip(MEAN, STD)))


def test_test_batches_are_the_test_images_in_order(digits):
    batches = list(data.test_batches(digits, batch_size=100))
    images = np.concatenate([x for x, _ in batches])
    np.testing.assert_allclose(images, preprocess_input(digits.test[0]), atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), digits.test[1])


def test_targets_are_labels_and_what_a_teacher_says():
    images, labels = tf.zeros([2, 4, 4, 3]), tf.constant([1, 0])
    said = tf.constant([[0.64, 0.04, 0.32], [0.0, 1.0, 0.0]], tf.float16)
    batches = tf.data.Dataset.from_tensors((images, labels, said))
    one_hot = np.eye(3)[[1, 0]]
    ((_, target),) = data.with_targets(batches.map(lambda *batch: batch[:2]), 3)
    np.testing.assert_array_equal(target, one_hot)
    ((_, target),) = data.with_targets(batches, 3, share=0.25)
    np.testing.assert_allclose(target, 0.75 * one_hot + 0.25 * said.numpy(), atol=1e-3)
    ((_, target),) = data.with_targets(batches, 3, share=1.0, temperature=2.0)
    roots = np.array([0.8, 0.2, 0.32**0.5])
    np.testing.assert_allclose(target, [roots / roots.sum(), [0, 1, 0]], atol=1e-3)


def test_held_out_images_are_training_images_and_not_trained_on():
    whole, part = data.load("digits"), data.load("digits", held_out=100)
    assert len(part.test[0]) == 100

    def pairs(*sets):
        return sorted((bytes(image), label) for each in sets for image, label in zip(*each))

    assert pairs(part.train, part.test) == pairs(whole.train)
    np.testing.assert_array_equal(data.load("digits", held_out=100).test[0], part.test[0])
    limited = data.load("digits", held_out=100, limit_train=50)
    np.testing.assert_array_equal(limited.train[0], part.train[0][:50])
    with pytest.raises(ValueError, match="`held_out` must be from 1 to 1436, received 1437"):
        data.load("digits", held_out=1437)


@pytest.fixture
def no_memory(monkeypatch, tmp_path):
    """A machine where no image fits; the folder that takes them."""
    monkeypatch.setattr(data, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["folder", "digits", "cifar10"])
def test_what_does_not_fit_into_memory_gives_the_same_numbers(name, folder, no_memory, monkeypatch):
    if name == "cifar10" and "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("no prepared CIFAR-10")
    limits = {"limit_train": 300, "limit_test": 20} if name != "folder" else {"held_out": 3}
    name = str(folder) if name == "folder" else name

    def numbers():
        images = data.load(name, **limits)
        options = {"batch_size": 7, "seed": 1, "flip": True, "crop": 2}
        training = data.training_batches(images, epochs=3, initial_epoch=1, **options)
        return images, [*training, *data.test_batches(images, 9)]

    on_disk, first = numbers()
    monkeypatch.setattr(data, "SHARE_OF_MEMORY", 1.0)
    in_memory, second = numbers()
    assert isinstance(on_disk.train[0], np.memmap)
    assert not isinstance(in_memory.train[0], np.memmap)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)
    assert not list(no_memory.glob("tmp*"))  # the file is gone with the process, whatever happens


def test_it_is_said_where_images_go_that_do_not_fit(no_memory, capsys):
    data.load("digits", limit_train=10, limit_test=10)
    said = f"10 images of 32x32 are 0.0 GB: they go into a file in {no_memory}, not into memory"
    assert said in capsys.readouterr().out


def test_too_little_disk_is_said_before_anything_is_read(no_memory, monkeypatch):
    monkeypatch.setattr(data.shutil, "disk_usage", lambda folder: type("", (), {"free": 10}))
    with pytest.raises(ValueError, match="TMPDIR may name another place"):
        data.load("digits")


def test_classes_without_an_image_are_named(capsys):
    data.load("digits", limit_train=9, limit_test=10)  # fewer than classes: no wonder
    assert capsys.readouterr().out == "there are no test images of 0, 1, 4, 5\n"


def test_a_teacher_is_sharpened_and_softened_at_any_temperature():
    """By hand; where all powers of probabilities are 0 in float32 the greatest one still counts."""
    said, target = np.array([[0.1, 0.4, 0.5]], np.float16), np.array([[1, 0, 0]], np.float32)
    for temperature, expected in ((2.0, said**0.5 / (said**0.5).sum()), (1e-3, [[0, 0, 1]])):
        found = data.taught(target, said, 0.5, temperature)
        np.testing.assert_allclose(found, 0.5 * target + 0.5 * np.array(expected), atol=1e-3)


def test_iterators_do_not_wait_for_tuning_when_they_go():
    images = data.load("digits", limit_train=8, limit_test=8)
    training = data.training_batches(images, 4, seed=0, epochs=1, flip=False, crop=0)
    for batches in (training, data.test_batches(images)):
        assert data.with_targets(batches, 10).options().autotune.enabled is False
