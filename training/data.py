"""Image classification sets in memory, and the tf.data pipelines that training reads."""

import dataclasses
import pathlib
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf

from larq_seresnet.preprocessing import preprocess_input

DEFAULT = "cifar10"
EMBEDDED = "digits"
HELD_OUT = 0.2
SPLIT_SEED = 0
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


class DataUnavailable(Exception):
    """The data set is not on this machine nor to be had from it; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set in memory.

    Attributes:
        name: As given on the command line.
        class_names: One a label.
        train, test: Pairs of images, uint8 (N, H, W, 3), 0..255, and labels, int32 (N,).
        mirror: Whether a mirror image still shows the same class.
    """

    name: str
    class_names: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    mirror: bool = True


def load(name=None, data_dir=None, size=(32, 32), limit_train=None, limit_test=None, held_out=None):
    """Loads a data set, resized to `size`.

    Args:
        name: A TFDS name, the path of a folder, "digits", or None: CIFAR-10 where it is prepared or
            can be downloaded, otherwise the embedded digits, which is said on standard output.
        data_dir: Where TFDS keeps its data sets; None for its own choice (TFDS_DATA_DIR).
        size: Height and width in pixels.
        limit_train, limit_test: How many images to keep; None for all.
        held_out: How many of the training images stand in for the test set, always the same ones
            (`limit_train` counts the others); None for the test set itself.

    Raises:
        DataUnavailable: If it cannot be had.
        ValueError: If it is no image classification set, or smaller than a limit.
    """
    limits = {"limit_train": limit_train, "limit_test": limit_test, "held_out": held_out}
    for argument, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"`{argument}` must be at least 1, received {limit}.")
    try:
        if name == EMBEDDED:
            images = _digits(size)
        elif name is not None and pathlib.Path(name).is_dir():
            images = _folder(pathlib.Path(name), size)
        else:
            first = limit_train if held_out is None else None
            images = _tfds(name or DEFAULT, data_dir, size, first, limit_test)
    except DataUnavailable as reason:
        if name is not None:
            raise
        print(f"{reason}\nNo --dataset was named: training on scikit-learn's {EMBEDDED} instead.")
        images = _digits(size)
    if held_out is not None:
        images = _hold_out(images, held_out)
    return dataclasses.replace(
        images,
        train=_first(images.train, limit_train, "limit_train"),
        test=_first(images.test, limit_test, "limit_test"),
    )


def describe(settings, facts):
    """What a run was trained and tested on, in a sentence, from its `Config` and facts."""
    held_out = " held out of those for training" * bool(settings.held_out)
    return (
        f"Data set {settings.dataset}, {facts['train_images']:,} training and "
        f"{facts['test_images']:,} test images{held_out}."
    )


def _hold_out(images, count):
    """The same set with `count` of its training images as its test images."""
    total = len(images.train[0])
    if count >= total:
        raise ValueError(f"`held_out` must be from 1 to {total - 1}, received {count}.")
    order = np.random.default_rng(SPLIT_SEED).permutation(total)
    train, test = (
        tuple(array[np.sort(chosen)] for array in images.train)
        for chosen in (order[count:], order[:count])
    )
    return dataclasses.replace(images, train=train, test=test)


def _first(pairs, limit, argument):
    images, labels = pairs
    if limit is not None and limit > len(images):
        raise ValueError(f"`{argument}` must be from 1 to {len(images)}, received {limit}.")
    return images[:limit], labels[:limit]


def _resize(images, size):
    """Float or uint8 (..., H, W, 1 or 3), 0..255, to uint8 (..., *size, 3)."""
    if images.shape[-1] == 1:
        images = tf.image.grayscale_to_rgb(images)
    if images.dtype == tf.uint8 and tuple(images.shape[-3:-1]) == tuple(size):
        return images
    images = tf.image.resize(images, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(images), 0.0, 255.0), tf.uint8)


def _digits(size):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = _resize(
        tf.constant(digits.images[..., np.newaxis] * (255 / 16), tf.float32), size
    ).numpy()
    split = train_test_split(
        images,
        digits.target.astype(np.int32),
        test_size=HELD_OUT,
        stratify=digits.target,
        random_state=SPLIT_SEED,
    )
    train_images, test_images, train_labels, test_labels = split
    return ImageSet(
        name=EMBEDDED,
        class_names=tuple(str(name) for name in digits.target_names),
        train=(train_images, train_labels),
        test=(test_images, test_labels),
        mirror=False,
    )


def _folder(root, size):
    """`root`/train and `root`/test where both exist, else class folders, a fifth held out."""
    parts = [root / part for part in ("train", "test")]
    if not all(part.is_dir() for part in parts):
        parts = [root]
    # Keras's own shuffling would depend on the global seed, and so would what is held out
    sets = [
        tf.keras.utils.image_dataset_from_directory(
            part, shuffle=False, batch_size=None, image_size=size, interpolation="area"
        )
        for part in parts
    ]
    names = [images.class_names for images in sets]
    if names[0] != names[-1]:
        raise ValueError(
            f"`dataset` {root}: train and test must have the same class folders, received "
            f"{names[0]} and {names[-1]}."
        )
    try:
        arrays = [
            _shuffled(_arrays(images.map(lambda image, label: (_resize(image, size), label))))
            for images in sets
        ]
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"`dataset` {root} holds a file that is no image: {error}") from error
    if len(arrays) == 1:
        images, labels = arrays[0]
        if len(images) < 2:
            raise ValueError(f"`dataset` {root} must hold two images at least, a fifth for tests.")
        first = max(1, round(HELD_OUT * len(images)))
        arrays = [(images[first:], labels[first:]), (images[:first], labels[:first])]
    return ImageSet(str(root.resolve()), tuple(names[0]), *arrays)


def _shuffled(arrays):
    order = np.random.default_rng(SPLIT_SEED).permutation(len(arrays[0]))
    return tuple(array[order] for array in arrays)


def _tfds(name, data_dir, size, limit_train, limit_test):
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
    label, train_split, test_split = _described(builder)

    def read(split, limit):
        images = builder.as_dataset(split=split, shuffle_files=False)
        if limit is not None:
            images = images.take(limit)
        return _arrays(
            images.map(
                lambda example: (_resize(example["image"], size), example["label"]),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        )

    names = {builder.name, getattr(builder.builder_config, "name", None)}
    return ImageSet(
        name=name,
        class_names=tuple(label.names),
        train=read(train_split, limit_train),
        test=read(test_split, limit_test),
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


def _arrays(dataset):
    """A finite dataset of (image, label) as two arrays."""
    images, labels = zip(*dataset.batch(1024).prefetch(1).as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels).astype(np.int32)


def training_batches(data, batch_size, seed, epochs, initial_epoch=0, *, flip, crop):
    """The batches of epochs `initial_epoch` to `epochs`, one after another, shuffled and augmented.

    Order and augmentation of an epoch depend on `seed` and the epoch's number alone, so that a
    resumed run sees what an unbroken one would have seen. Every image comes once an epoch; the
    last batch of an epoch may be smaller. `flip` and `crop` are those of `augment`.

    Returns:
        A tf.data.Dataset of (images, labels): float32 (N, H, W, 3), normalised, and int32 (N,).
    """
    images, labels = (tf.constant(array) for array in data.train)

    def epoch_batches(epoch):
        epoch_seed = tf.stack([seed, epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), epoch_seed)

        def batch(step, chosen):
            step_seed = tf.random.experimental.stateless_fold_in(epoch_seed, step)
            crops = augment(tf.gather(images, chosen), step_seed, flip, crop)
            return preprocess_input(crops), tf.gather(labels, chosen)

        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate().map(batch)

    return tf.data.Dataset.range(initial_epoch, epochs).flat_map(epoch_batches).prefetch(2)


def test_batches(data, batch_size=500):
    """The test images in order, as `training_batches` gives them, without augmentation."""
    batches = tf.data.Dataset.from_tensor_slices(data.test).batch(batch_size)
    return batches.map(lambda images, labels: (preprocess_input(images), labels)).prefetch(2)


def with_targets(batches, classes, teacher=None, share=0.0):
    """Batches with what is to be predicted, (N, classes), in place of the labels.

    Args:
        batches: Of `training_batches` or `test_batches`.
        classes: How many.
        teacher: A model whose probabilities for the same images, augmented alike, are mixed in
            (G. Hinton et al., 2015, at temperature 1); None for 1 at the label, 0 elsewhere.
        share: Of the teacher.
    """

    def with_target(images, labels):
        target = tf.one_hot(labels, classes)
        if teacher is not None:
            taught = tf.cast(teacher(images, training=False), tf.float32)
            target = (1.0 - share) * target + share * taught
        return images, target

    return batches.map(with_target).prefetch(2)


def augment(images, seed, flip, crop):
    """Shifts each image by up to `crop` pixels, mirrored at the border, and mirrors half of them.

    Args:
        images: uint8, 0..255, (N, H, W, 3).
        seed: Two integers; the same seed gives the same result.
        flip: Whether to mirror at all.
        crop: Pixels.

    Returns:
        uint8, (N, H, W, 3).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    shift_seed, mirror_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    shift = tf.random.stateless_uniform([2, count, 1], shift_seed, -crop, crop + 1, dtype=tf.int32)
    columns = tf.range(width)[tf.newaxis]
    if flip:
        mirrored = tf.random.stateless_uniform([count, 1], mirror_seed, 0, 2, dtype=tf.int32) == 1
        columns = tf.where(mirrored, width - 1 - columns, columns)
    rows = _reflect(tf.range(height)[tf.newaxis] + shift[0], height)
    columns = _reflect(columns + shift[1], width)
    columns = tf.tile(columns[:, tf.newaxis], [1, height, 1])
    return tf.gather(tf.gather(images, rows, batch_dims=1), columns, batch_dims=2)


def _reflect(index, size):
    """Indices up to size - 1 beyond either border, mirrored back in."""
    index = tf.abs(index)
    return tf.where(index >= size, 2 * (size - 1) - index, index)
