import os
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from larq_seresnet.preprocessing import MEAN, STD, preprocess_input
from larq_seresnet.training import data


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty TFDS folder and a network where nothing answers."""

    def refuse(*arguments, **options):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return str(tmp_path)


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


def test_unnamed_falls_back_to_digits_and_says_so(offline, capsys):
    images = data.load(None, data_dir=offline)
    assert images.name == "digits"
    printed = capsys.readouterr().out
    assert "cifar10 is not prepared" in printed
    assert "training on scikit-learn's digits instead" in printed


def test_named_cifar10_stops_with_what_to_do(offline):
    with pytest.raises(data.DataUnavailable, match="TFDS_DATA_DIR or --data-dir"):
        data.load("cifar10", data_dir=offline)


def test_unknown_name_is_refused(offline):
    with pytest.raises(data.DataUnavailable, match=r"`dataset` must be a TFDS name, .* 'cifra10'"):
        data.load("cifra10", data_dir=offline)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="no prepared CIFAR-10")
def test_cifar10():
    images = data.load("cifar10", limit_train=2000, limit_test=100)
    assert images.train[0].shape == (2000, 32, 32, 3)
    assert len(images.test[0]) == 100
    assert images.class_names[3] == "cat"
    mean = images.train[0].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, MEAN, atol=3)
    assert images.mirror


def test_folder_of_class_folders(folder):
    images = data.load(str(folder), size=(16, 24))
    assert images.class_names == ("blue", "red")
    assert images.train[0].shape == (16, 16, 24, 3)
    assert images.test[0].shape == (4, 16, 24, 3)
    for pixels, labels in (images.train, images.test):
        reddish = pixels[..., 0].mean(axis=(1, 2)) > pixels[..., 2].mean(axis=(1, 2))
        np.testing.assert_array_equal(reddish, labels == 1)
        assert len(np.unique(labels)) == 2


def test_a_folder_is_split_alike_whatever_was_seeded(folder):
    """So that a teacher, which loads it later, is not taught what is held out."""
    loaded = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        images = data.load(str(folder), held_out=5)
        loaded.append((*images.train, *images.test))
    for first, second in zip(*loaded):
        np.testing.assert_array_equal(first, second)


def test_folder_with_train_and_test(folder):
    for part, names in (("train", ("blue", "red")), ("test", ("blue",))):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            source = folder / name / "1.png"
            (folder / part / name / "1.png").write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match="must have the same class folders"):
        data.load(str(folder))


def test_the_smallest_folder(folder):
    for image in (*folder.glob("*/[2-9].*"), folder / "red" / "0.jpg", folder / "red" / "1.png"):
        image.unlink()
    images = data.load(str(folder))
    assert (len(images.train[0]), len(images.test[0])) == (1, 1)
    (folder / "blue" / "1.png").unlink()
    with pytest.raises(ValueError, match="must hold two images at least"):
        data.load(str(folder))


def test_folder_with_a_broken_image(folder):
    (folder / "red" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut off")
    with pytest.raises(ValueError, match="holds a file that is no image"):
        data.load(str(folder))


class _Prepared:
    """What is read of a TFDS builder; every split but those of `unlabelled` has one image."""

    name = "flowers"
    builder_config = None

    def __init__(self, features, *splits, unlabelled=()):
        self.info = SimpleNamespace(features=features, splits=dict.fromkeys(splits))
        self.unlabelled = unlabelled

    def as_dataset(self, split, **options):
        label = -1 if split in self.unlabelled else 1
        return tf.data.Dataset.from_tensors(
            {"image": np.zeros((32, 32, 3), np.uint8), "label": label}
        )


def test_tfds_sets_without_test_images_hold_out_a_fifth():
    label, image = tfds.features.ClassLabel(num_classes=5), tfds.features.Image()
    features = tfds.features.FeaturesDict({"label": label, "image": image})
    assert data._described(_Prepared(features, "train", "test"))[1:] == ("train", "test")
    assert data._described(_Prepared(features, "train", "validation"))[2] == "validation"
    held_out = ("train[:80%]", "train[80%:]")
    assert data._described(_Prepared(features, "train"))[1:] == held_out
    splits = ("train", "test", "validation")
    assert data._described(_Prepared(features, *splits, unlabelled=["test"]))[2] == "validation"
    assert data._described(_Prepared(features, *splits, unlabelled=splits[1:]))[1:] == held_out
    with pytest.raises(ValueError, match="must have a split 'train', received 'flowers'"):
        data._described(_Prepared(features, "test"))
    with pytest.raises(ValueError, match="must be an image classification set"):
        data._described(_Prepared(tfds.features.FeaturesDict({"text": tfds.features.Text()})))


@pytest.mark.parametrize(
    ("name", "config", "mirror"),
    [
        ("svhn_cropped", None, False),
        ("visual_domain_decathlon", SimpleNamespace(name="svhn"), False),
        ("visual_domain_decathlon", SimpleNamespace(name="aircraft"), True),
        ("flowers", None, True),
    ],
)
def test_characters_are_not_mirrored(monkeypatch, name, config, mirror):
    sets = set(tfds.list_builders(with_community_datasets=False))
    assert set(data.CHARACTERS) - sets == {"svhn"}  # a config
    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    builder = _Prepared(
        tfds.features.FeaturesDict({"image": image, "label": label}), "train", "test"
    )
    builder.name, builder.builder_config = name, config
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(data, "_prepare", lambda builder: None)
    assert data.load(name).mirror is mirror


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


def test_targets_are_labels_and_what_the_teacher_says_of_the_same_images(digits):
    def teacher(images, training):
        assert training is False
        sure = tf.one_hot([3] * len(images), 10)
        return tf.where(tf.reduce_mean(images, axis=[1, 2, 3])[:, tf.newaxis] > 0, sure, 0.1)

    batches = data.test_batches(digits, batch_size=100)
    for batch, plain, taught in zip(
        batches,
        data.with_targets(batches, 10),
        data.with_targets(batches, 10, teacher, 0.45),
        strict=True,
    ):
        images, labels = (part.numpy() for part in batch)
        np.testing.assert_array_equal(taught[0], images)
        np.testing.assert_array_equal(plain[1], np.eye(10)[labels])
        bright = images.mean(axis=(1, 2, 3)) > 0
        said = np.where(bright[:, np.newaxis], np.eye(10)[3], 0.1)
        np.testing.assert_allclose(taught[1], 0.55 * np.eye(10)[labels] + 0.45 * said, atol=1e-6)
        np.testing.assert_array_equal(np.argmax(taught[1], axis=1), labels)


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
