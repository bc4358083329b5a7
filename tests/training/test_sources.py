import os
import shutil
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from larq_seresnet import read_image
from larq_seresnet.training import data, sources

import tensorflow as tf


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty TFDS folder and a network where nothing answers."""

    def refuse(*arguments, **options):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return str(tmp_path)


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


def test_folder_of_class_folders(folder):
    images = data.load(str(folder), size=(16, 24))
    assert images.class_names == ("blue", "red")
    assert images.train[0].shape == (15, 16, 24, 3)
    assert images.test[0].shape == (5, 16, 24, 3)
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


def test_images_of_a_folder_are_read_as_a_device_reads_them(folder):
    images = data.load(str(folder), size=(12, 20))
    expected = [read_image(path, (12, 20)) for path in sorted(folder.glob("*/*"))]
    read = np.concatenate([images.train[0], images.test[0]])
    assert sorted(map(bytes, read)) == sorted(map(bytes, expected))


def _copy(folder, *parts):
    for part in parts:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes((folder / "red" / "1.png").read_bytes())


@pytest.mark.parametrize(
    ("trained", "tests"),
    [
        ("train", "test"),
        ("train", "validation"),
        ("train", "val"),
        ("train", "valid"),
        ("train", "dev"),
        ("Training", "Testing"),
    ],
)
def test_train_is_trained_on_and_what_lies_beside_it_tested_on(folder, trained, tests):
    root = folder / "parts"
    root.mkdir()
    (root / tests).mkdir()
    (root / trained).mkdir()
    for name in ("blue", "red"):
        (folder / name).rename(root / trained / name)
        (root / tests / name).mkdir()
        moved = root / trained / name / "3.png"
        moved.rename(root / tests / name / "3.png")
    images = data.load(str(root))
    assert images.class_names == ("blue", "red")
    assert (len(images.train[0]), len(images.test[0])) == (18, 2)


def test_train_alone_holds_out_a_fifth(folder):
    root = folder.parent / "whole"
    root.mkdir()
    folder.rename(root / "train")
    images = data.load(str(root))
    assert images.class_names == ("blue", "red")
    assert (len(images.train[0]), len(images.test[0])) == (15, 5)


def test_of_two_folders_for_tests_one_is_left_alone(folder, capsys):
    _copy(folder, *(f"{part}/{name}/1.png" for part in ("train", "test", "val") for name in "ab"))
    data.load(str(folder))
    assert f"{folder}: tested on test; left alone: blue, red, val" in capsys.readouterr().out


def test_a_folder_of_tests_without_labels_is_left_alone(folder, capsys):
    _copy(folder, *(f"../new/train/{name}/{i}.png" for name in "ab" for i in range(9)))
    root = folder.parent / "new"
    _copy(folder, "../new/test/1.png")
    images = data.load(str(root))
    assert len(images.train[0]) + len(images.test[0]) == 18
    assert f"{root}: tested on a fifth of train; left alone: test" in capsys.readouterr().out
    _copy(folder, "../new/val/a/1.png", "../new/val/b/1.png")
    images = data.load(str(root))
    assert (len(images.train[0]), len(images.test[0])) == (18, 2)
    assert f"{root}: tested on val; left alone: test" in capsys.readouterr().out


def test_folders_for_tests_alone_are_no_classes(folder):
    root = folder.parent / "new"
    _copy(folder, *(f"../new/{part}/{name}/1.png" for part in ("test", "val") for name in "ab"))
    with pytest.raises(ValueError, match=r"must hold 'train', .*: received test and val"):
        data.load(str(root))


def test_a_class_may_be_called_train(folder):
    _copy(folder, *(f"../new/{name}/{i}.png" for name in ("train", "val") for i in range(9)))
    assert data.load(str(folder.parent / "new")).class_names == ("train", "val")


def test_an_empty_name_is_not_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="must be a name or a folder, received ''"):
        data.load("")


def test_a_folder_called_digits_is_that_folder(folder, monkeypatch):
    folder.rename(folder.parent / "digits")
    monkeypatch.chdir(folder.parent)
    assert data.load("digits").class_names == ("blue", "red")


@pytest.mark.parametrize(("names", "tests"), [("12", 1), ("23", 1), ("0134", 1)])
def test_about_a_fifth_of_every_class_is_held_out(names, tests, folder):
    _copy(folder, *(f"rare/{name}.png" for name in names))
    images = data.load(str(folder))
    np.testing.assert_array_equal(np.bincount(images.train[1]), [7, len(names) - tests, 8])
    np.testing.assert_array_equal(np.bincount(images.test[1]), [3, tests, 2])


def test_images_stay_where_they_are_when_others_come_and_go(numbered):
    """So that no network is tested on what an earlier one learnt from."""
    root = numbered(40, 41, 43)
    before = data.load(str(root), size=(8, 8))
    for number in (3, 5, 7, 11):
        (root / "class0" / f"{number}.png").unlink()
    numbered(0, 60, 44)
    after = data.load(str(root), size=(8, 8))
    learnt, tested = ({bytes(image) for image in part} for part in (before.train[0], after.test[0]))
    assert len(tested) == len(after.test[0])
    assert not learnt & tested


def test_names_that_are_no_text_are_refused(folder):
    odd = os.fsencode(folder) + b"/blue/caf\xe9.png"
    shutil.copy(next(folder.rglob("*.png")), odd)
    with pytest.raises(ValueError, match=r"must have names in UTF-8, received '.*caf\\udce9.png'"):
        data.load(str(folder))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train/blue/1", "test/red/1"], "two at least: received one, 'blue'"),
        (["train/a/1", "train/a/2", "val/a/1"], "two at least: received one, 'a'"),
        (["train/a/1", "train/b/1", "val/a/1", "val/c/1"], "train and val must have the same"),
        (["rare/1"], "at least, one for training and one for the test: received one of 'rare', 1"),
    ],
)
def test_folders_that_are_no_data_set_are_refused(folder, parts, message):
    _copy(folder, *(f"{part}.png" for part in parts))
    with pytest.raises(ValueError, match=message):
        data.load(str(folder))


def test_class_folders_without_an_image_are_named(folder):
    (folder / "green").mkdir()
    (folder / "grey").mkdir()
    (folder / "grey" / "notes.txt").touch()
    with pytest.raises(ValueError, match="received green, grey without an image"):
        data.load(str(folder))


def test_a_folder_one_level_too_high_or_too_low(folder):
    with pytest.raises(ValueError, match=f"Is {folder} meant, with blue, red?"):
        data.load(str(folder.parent))
    with pytest.raises(ValueError, match="two at least: received none, and 10 files"):
        data.load(str(folder / "red"))


def test_folders_within_a_class_are_taken_as_one_and_said(folder, capsys):
    _copy(folder, "pets/cat/1.png", "pets/dog/1.png")
    assert data.load(str(folder)).class_names == ("blue", "pets", "red")
    assert f"{folder / 'pets'}: cat, dog in it are taken as one class" in capsys.readouterr().out


def test_files_that_are_left_out_are_counted(folder, capsys):
    for name in ("a.heic", "b.heic", "notes.txt", "README", ".DS_Store"):
        (folder / "red" / name).write_bytes(b"")
    Image.new("RGB", (9, 9)).save(folder / "red" / "more.webp")
    images = data.load(str(folder))
    assert len(images.train[0]) + len(images.test[0]) == 21
    said = f"{folder}: 4 files are no images by their names: 2 .heic, 1 README, 1 .txt"
    assert said in capsys.readouterr().out


def test_all_broken_files_are_named_one_a_line(folder):
    (folder / "red" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut off")
    (folder / "red" / "2.jpg").write_bytes((folder / "red" / "2.jpg").read_bytes()[:200])
    (folder / "blue" / "4.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 3 files that cannot be read") as error:
        data.load(str(folder))
    lines = str(error.value).splitlines()[1:]
    for line, name in zip(lines, ("blue/4.jpg", "red/1.png", "red/2.jpg"), strict=True):
        assert line.startswith(f"{folder / name} is no image, or is damaged: ")


def test_a_folder_that_is_gone_is_not_looked_up_as_a_name(folder):
    with pytest.raises(data.DataUnavailable, match="gone is gone, or never was there"):
        data.load(str(folder / "gone"))
    with pytest.raises(data.DataUnavailable, match=r"1\.png is a file"):
        data.load(str(folder / "red" / "1.png"))


def test_what_tfds_prepared_is_no_folder_of_images(tmp_path, monkeypatch, folder):
    """Or its data sets could not be named where it keeps them."""
    monkeypatch.chdir(tmp_path)
    for place in ("cifar10/3.0.2", "emnist/letters/3.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").touch()
        name = place.partition("/")[0]
        assert sources.full_name(name) == name
    monkeypatch.chdir(folder.parent)
    assert sources.full_name(folder.name) == str(folder.resolve())


class _Prepared:
    """What is read of a TFDS builder; every split but those of `unlabelled` has one image."""

    name = "flowers"
    builder_config = None

    def __init__(self, features, *splits, unlabelled=()):
        self.info = SimpleNamespace(
            features=features, splits=dict.fromkeys(splits, SimpleNamespace(num_examples=1))
        )
        self.unlabelled = unlabelled

    def as_dataset(self, split, **options):
        label = -1 if split in self.unlabelled else 1
        return tf.data.Dataset.from_tensors(
            {"image": np.zeros((32, 32, 3), np.uint8), "label": label}
        )


def test_tfds_sets_without_test_images_hold_out_a_fifth():
    label, image = tfds.features.ClassLabel(num_classes=5), tfds.features.Image()
    features = tfds.features.FeaturesDict({"label": label, "image": image})
    assert sources._described(_Prepared(features, "train", "test"))[1:] == ("train", "test")
    assert sources._described(_Prepared(features, "train", "validation"))[2] == "validation"
    held_out = ("train[:80%]", "train[80%:]")
    assert sources._described(_Prepared(features, "train"))[1:] == held_out
    splits = ("train", "test", "validation")
    assert sources._described(_Prepared(features, *splits, unlabelled=["test"]))[2] == "validation"
    assert sources._described(_Prepared(features, *splits, unlabelled=splits[1:]))[1:] == held_out
    with pytest.raises(ValueError, match="must have a split 'train', received 'flowers'"):
        sources._described(_Prepared(features, "test"))
    one = {"label": tfds.features.ClassLabel(num_classes=1), "image": image}
    with pytest.raises(ValueError, match="must have two classes at least, 'flowers' has one"):
        sources._described(_Prepared(tfds.features.FeaturesDict(one), "train"))
    with pytest.raises(ValueError, match="must be an image classification set"):
        sources._described(_Prepared(tfds.features.FeaturesDict({"text": tfds.features.Text()})))


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
    assert set(sources.CHARACTERS) - sets == {"svhn"}  # a config
    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    builder = _Prepared(
        tfds.features.FeaturesDict({"image": image, "label": label}), "train", "test"
    )
    builder.name, builder.builder_config = name, config
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(sources, "_prepare", lambda builder: None)
    assert data.load(name).mirror is mirror


class _Photographs(_Prepared):
    """A TFDS set of images of several sizes, and 16 bits."""

    def __init__(self, images, shape=(None, None, 3), dtype=np.uint8):
        label = tfds.features.ClassLabel(num_classes=2)
        image = tfds.features.Image(shape=shape, dtype=dtype)
        super().__init__(
            tfds.features.FeaturesDict({"label": label, "image": image}), "train", "test"
        )
        self.info.splits = dict.fromkeys(
            ("train", "test"), SimpleNamespace(num_examples=len(images))
        )
        self.images = images

    def as_dataset(self, split, **options):
        examples = [{"image": image, "label": i % 2} for i, image in enumerate(self.images)]
        signature = {
            "image": tf.TensorSpec(self.info.features["image"].shape, self.images[0].dtype),
            "label": tf.TensorSpec((), tf.int64),
        }
        return tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("fixed", [True, False])
def test_tfds_images_become_what_files_of_them_would(monkeypatch, channels, dtype, fixed):
    generator = np.random.default_rng(0)
    sizes = [(40, 40) if fixed else generator.integers(20, 60, 2) for _ in range(6)]
    most = np.iinfo(dtype).max
    images = [generator.integers(0, most + 1, (*size, channels), dtype) for size in sizes]
    shape = (40, 40, channels) if fixed else (None, None, channels)
    builder = _Photographs(images, shape, dtype)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(sources, "_prepare", lambda builder: None)
    loaded = data.load("photographs", limit_train=5, held_out=1)
    found = np.concatenate([loaded.train[0], loaded.test[0]])
    expected = []
    for image in images:
        image = (image >> 8).astype(np.uint8) if dtype == np.uint16 else image
        rgb = {1: lambda x: x.repeat(3, axis=-1), 3: lambda x: x, 4: sources.on_white}[channels](
            image
        )
        expected.append(sources.fit(rgb, (32, 32)))
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_tfds_images_of_real_numbers_are_refused(monkeypatch):
    """From 0 to 1, they would all become 0."""
    images = [np.ones((32, 32, 1), np.float32)] * 6
    builder = _Photographs(images, (32, 32, 1), np.float32)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(sources, "_prepare", lambda builder: None)
    with pytest.raises(ValueError, match="must have images of 8 or 16 bits, received float32"):
        data.load("photographs")
