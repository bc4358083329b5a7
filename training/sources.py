"""Where images come from: a folder of class folders, TFDS, or scikit-learn's digits."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from larq_seresnet.arguments import check_lines
from larq_seresnet.images import fit, image_files, on_white, read_image

import tensorflow as tf

DEFAULT = "cifar10"
EMBEDDED = "digits"
HELD_OUT = 0.2
SPLIT_SEED = 0
#: The first of these folders is trained on, of those beside it the first one is tested on.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "validation", "valid", "val", "dev")
REACHABLE_SECONDS = 5
#: TFDS sets, and configs of such, of letters and digits: in a mirror they are others, or none.
CHARACTERS = (
    "binarized_mnist",
    "binary_alpha_digits",
    "cmaterdb",
    "emnist",
    "kmnist",
    "mnist",
    "mnist_corrupted",
    "omniglot",
    "svhn",
    "svhn_cropped",
)


class DataUnavailable(ValueError):
    """The data set is not on this machine nor to be had from it; the message says what to do."""


class Unreadable(Exception):
    """Files of a data set are no images: its argument is a list of sentences, one a file."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that is known, and not read yet.

    Attributes:
        name: As a run's config.json has it.
        class_names: One a label.
        train, test: Readers. Each has a length, in images, and a method `read(chosen, images)`:
            it writes the images whose numbers the array `chosen` holds, in its order, into the
            array `images`, uint8 (N, H, W, 3), and returns their labels, int32 (N,). It raises
            `Unreadable` when all were tried.
        mirror: Whether a mirror image still shows the same class.
    """

    name: str
    class_names: tuple[str, ...]
    train: Any
    test: Any
    mirror: bool = True


def find(name, data_dir):
    """The `Source` of a name: see `data.load`, which says what is raised."""
    if name == "":  # a variable of a shell that is not set; else it is the working directory
        raise ValueError("`dataset` must be a name or a folder, received ''.")
    try:
        if name is not None and _is_folder(name):
            return _folder(pathlib.Path(name))
        if name == EMBEDDED:
            return _digits()
        if name is not None and (os.path.isabs(name) or pathlib.Path(name).is_file()):
            what = "is a file" if pathlib.Path(name).exists() else "is gone, or never was there"
            raise DataUnavailable(
                f"`dataset` must be a folder of class folders: {name} {what}. Where it moved, "
                f"--dataset NEW says so; train.py takes it with --resume."
            )
        return _tfds(name or DEFAULT, data_dir)
    except DataUnavailable as reason:
        if name is not None:
            raise
        print(f"{reason}\nNo --dataset was named: training on scikit-learn's {EMBEDDED} instead.")
        return _digits()


def full_name(name):
    """The name of a data set as config.json has it: of a folder its whole path."""
    is_folder = name is not None and _is_folder(name)
    return str(pathlib.Path(name).resolve()) if is_folder else name


def _is_folder(name):
    """Whether it means a folder; where TFDS keeps its data, what it prepared is not meant."""
    path = pathlib.Path(name)
    prepared = (any(path.glob(f"{depth}dataset_info.json")) for depth in ("*/", "*/*/"))
    return path.is_dir() and (path.is_absolute() or not any(prepared))


def _as_bytes(images, size):
    """(N, H, W, 1, 3 or 4), 8 or 16 bits a channel, as `read_image` would: uint8, 1 or 3."""
    if images.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"`dataset` must have images of 8 or 16 bits, received {images.dtype}.")
    if images.dtype == np.uint16:
        images = (images >> 8).astype(np.uint8)
    if images.shape[-1] == 4:
        images = on_white(images)
    if images.shape[1:3] == size:
        return images
    channels = np.moveaxis(images, 0, -1)  # all at once, as so many channels of one image
    fitted = fit(channels.reshape(*channels.shape[:2], -1), size)
    return np.moveaxis(fitted.reshape(*size, *channels.shape[2:]), -1, 0)


class _Arrays:
    """Images and labels that are in memory already."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def read(self, chosen, images):
        images[:] = _as_bytes(self.images[chosen], images.shape[1:3])  # grey is repeated
        return self.labels[chosen]


def _digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        np.round(digits.images[..., np.newaxis] * (255 / 16)).astype(np.uint8),
        digits.target.astype(np.int32),
        test_size=HELD_OUT,
        stratify=digits.target,
        random_state=SPLIT_SEED,
    )
    return Source(
        name=EMBEDDED,
        class_names=tuple(str(name) for name in digits.target_names),
        train=_Arrays(train_images, train_labels),
        test=_Arrays(test_images, test_labels),
        mirror=False,
    )


class _Files:
    """Image files with their labels, by classes, in an order drawn once for all."""

    def __init__(self, by_class):
        files = [(path, label) for label, paths in enumerate(by_class) for path in paths]
        order = np.random.default_rng(SPLIT_SEED).permutation(len(files))
        self.files = [files[i] for i in order]

    def __len__(self):
        return len(self.files)

    def read(self, chosen, images):
        def read(at):
            try:
                images[at] = read_image(self.files[chosen[at]][0], images.shape[1:3])
            except (ValueError, OSError) as error:
                return " ".join(str(error).split())
            return None

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = [problem for problem in pool.map(read, range(len(chosen))) if problem]
        if problems:
            raise Unreadable(problems)
        return np.array([self.files[index][1] for index in chosen], np.int32)


def _folder(root):
    """`root`/train and a folder for tests beside it, else class folders, split by `_split`."""
    parts = _parts(root)
    found = [_classes(part) for part in parts]
    _check_text([root.resolve()])
    for each in found:
        _check_text(path for paths in each.values() for path in paths)
    names = list(found[0])
    check_lines("dataset", names)
    if names != list(found[-1]):
        raise ValueError(
            f"`dataset` {root}: {parts[0].name} and {parts[-1].name} must have the same class "
            f"folders, received {names} and {list(found[-1])}."
        )
    train, test = found if len(found) == 2 else _split(parts[0], found[0])
    readers = (_Files(part.values()) for part in (train, test))
    return Source(str(root.resolve()), tuple(names), *readers)


def _parts(root):
    """The folder of class folders that is trained on, and that which is tested on, if there is."""
    below = {path.name.lower(): path for path in _folders_in(root)}
    trained, tests = (
        [below[name] for name in names if name in below and _folders_in(below[name])]
        for names in (TRAIN_FOLDERS, TEST_FOLDERS)
    )
    others = below.keys() - {*TRAIN_FOLDERS, *TEST_FOLDERS}
    if trained and (tests or not others):
        parts = trained[:1] + tests[:1]
        left_alone = [path.name for path in below.values() if path not in parts]
        if left_alone:
            tested = tests[0].name if tests else f"a fifth of {trained[0].name}"
            print(f"{root}: tested on {tested}; left alone: {', '.join(left_alone)}")
        return parts
    if len(tests) > 1 and not others:
        names = " and ".join(path.name for path in tests)
        raise ValueError(
            f"`dataset` {root} must hold {TRAIN_FOLDERS[0]!r}, or a folder of images for each "
            f"class: received {names}."
        )
    return [root]


def _check_text(paths):
    """Raises ValueError where logs, labels and digests could not name a file."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`dataset` must have names in UTF-8, received {str(path)!a}."
            ) from error


def _folders_in(folder):
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _classes(folder):
    """The image files of each class folder, by its name; says what is left out."""
    found = {path.name: image_files(path) for path in _folders_in(folder)}
    should_be = f"`dataset` {folder} must hold a folder of images for each class, two at least"
    if len(found) < 2:
        loose = sum(path.is_file() for path in folder.iterdir())
        received = f"one, {next(iter(found))!r}" if found else f"none, and {loose} files"
        inner = [path.name for name in found for path in _folders_in(folder / name)]
        hint = f" Is {folder / next(iter(found))} meant, with {', '.join(inner)}?" if inner else ""
        raise ValueError(f"{should_be}: received {received}.{hint}")
    empty = [name for name, (images, _) in found.items() if not images]
    if empty:
        raise ValueError(f"{should_be}: received {', '.join(empty)} without an image.")
    for name, (images, _) in found.items():
        parts = {path.relative_to(folder / name).parts[0] for path in images}
        if len(parts) > 1 and not any((folder / name / part).is_file() for part in parts):
            print(f"{folder / name}: {', '.join(sorted(parts))} in it are taken as one class")
    left_out = collections.Counter(
        path.suffix or path.name for _, others in found.values() for path in others
    )
    if left_out:
        kinds = ", ".join(f"{count} {ending}" for ending, count in left_out.most_common())
        print(f"{folder}: {left_out.total()} files are no images by their names: {kinds}")
    return {name: images for name, (images, _) in found.items()}


def _split(root, found):
    """About a fifth of the files of each class for tests, and one at least on either side.

    A file's name alone says on which, so that it stays there when others come and go, but in a
    class so small that one side would be empty.
    """
    train, test = {}, {}
    for name, files in found.items():
        if len(files) < 2:
            raise ValueError(
                f"`dataset` {root} must hold two images of each class at least, one for training "
                f"and one for the test: received one of {name!r}, {files[0].name}."
            )
        order = sorted(files, key=functools.partial(_drawn, root))
        first = sum(_drawn(root, path) < HELD_OUT for path in files)
        first = min(max(first, 1), len(files) - 1)
        test[name], train[name] = sorted(order[:first]), sorted(order[first:])
    return train, test


def _drawn(root, path):
    """A number from 0 to 1 that a file's name decides."""
    digest = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
    return int.from_bytes(digest, "big") / 2 ** (8 * len(digest))


class _Split:
    """A split of a TFDS set."""

    def __init__(self, builder, split):
        self.builder, self.split = builder, split
        self.shape = builder.info.features["image"].shape

    def __len__(self):
        return self.builder.info.splits[self.split].num_examples

    def read(self, chosen, images):
        import tensorflow_datasets as tfds

        places = np.full(len(self), -1)
        places[chosen] = np.arange(len(chosen))
        labels = np.empty(len(chosen), np.int32)
        uncached = tfds.ReadConfig(try_autocache=False)  # read once
        examples = self.builder.as_dataset(
            split=self.split, shuffle_files=False, read_config=uncached
        )
        pairs = examples.map(lambda example: (example["image"], example["label"]))
        pairs = pairs.take(int(chosen.max()) + 1).batch(1 if None in self.shape else 1024)
        start = 0
        for pixels, of_batch in pairs.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            at = places[start : start + len(of_batch)]
            start += len(at)
            wanted = at >= 0
            images[at[wanted]] = _as_bytes(pixels[wanted], images.shape[1:3])
            labels[at[wanted]] = of_batch[wanted]
        return labels


def _tfds(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (
        tfds.core.registered.DatasetNotFoundError,
        ValueError,
        AssertionError,
        ImportError,
    ) as error:
        raise DataUnavailable(
            f"`dataset` must be a TFDS name, the path of a folder of class folders, or "
            f"{EMBEDDED!r}, received {name!r}: {str(error).splitlines()[0]}"
        ) from error
    _prepare(builder)
    label, train, test = _described(builder)
    names = {builder.name, getattr(builder.builder_config, "name", None)}
    return Source(
        name=name,
        class_names=tuple(label.names),
        train=_Split(builder, train),
        test=_Split(builder, test),
        mirror=names.isdisjoint(CHARACTERS),
    )


def _described(builder):
    """The label feature and both splits of a TFDS set; a fifth of one, if no other has labels."""
    import tensorflow_datasets as tfds

    splits, features = builder.info.splits, builder.info.features
    features = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    label, image = features.get("label"), features.get("image")
    if not isinstance(label, tfds.features.ClassLabel) or not isinstance(
        image, tfds.features.Image
    ):
        raise ValueError(
            f"`dataset` must be an image classification set with the features 'image' and 'label', "
            f"received {builder.name!r} with {sorted(features)}."
        )
    if label.num_classes < 2:
        raise ValueError(f"`dataset` must have two classes at least, {builder.name!r} has one.")
    if "train" not in splits:
        raise ValueError(
            f"`dataset` must have a split 'train', received {builder.name!r} with {sorted(splits)}."
        )
    for test in ("test", "validation"):
        if test in splits and _has_labels(builder, test):
            return label, "train", test
    kept = round(100 * (1 - HELD_OUT))
    return label, f"train[:{kept}%]", f"train[{kept}%:]"


def _has_labels(builder, split):
    """TFDS has -1 in their place in test splits of challenges."""
    return all(int(example["label"]) >= 0 for example in builder.as_dataset(split=split).take(1))


def _prepare(builder):
    """Downloads and prepares a TFDS set; for the default one, if its source answers at once."""
    if builder.is_prepared():
        return
    what_to_do = (
        f"Prepare it on a machine that can download it (tfds build {builder.name}), copy the "
        f"folder here and point TFDS_DATA_DIR or --data-dir at it; or use --dataset {EMBEDDED}."
    )
    here = f"{builder.name} is not prepared in {builder.data_dir}"
    if builder.name == DEFAULT:
        source = builder.info.homepage
        try:
            urllib.request.urlopen(
                urllib.request.Request(source, method="HEAD"), timeout=REACHABLE_SECONDS
            ).close()
        except urllib.error.HTTPError:
            pass  # an answer, of a server that does not like to be asked so
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise DataUnavailable(
                f"{here}, and its source {source} does not answer ({error}). {what_to_do}"
            ) from error
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise DataUnavailable(
            f"{here}, and preparing it failed ({type(error).__name__}: {error}). {what_to_do}"
        ) from error
