"""Image classification sets in memory or beside it, and the tf.data pipelines of training."""

import dataclasses
import hashlib
import os
import shutil
import tempfile

import numpy as np

from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import machine, sources, strategies
from larq_seresnet.training.sources import EMBEDDED, SPLIT_SEED, DataUnavailable

import tensorflow as tf

__all__ = ["EMBEDDED", "DataUnavailable", "ImageSet", "check_unseen", "describe", "digest", "load"]
#: Share of the free memory that images may take; where they would take more they lie on disk.
SHARE_OF_MEMORY = 0.5
TEST_BATCH_SIZE = 500


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set.

    Attributes:
        name: As given on the command line.
        class_names: One a label.
        train, test: Pairs of images, uint8 (N, H, W, 3), 0..255, and labels, int32 (N,). Images
            are an array in memory, or one mapped from a file where there are too many.
        mirror: Whether a mirror image still shows the same class.
    """

    name: str
    class_names: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    mirror: bool = True


def load(
    name=None,
    data_dir=None,
    size=(32, 32),
    limit_train=None,
    limit_test=None,
    held_out=None,
    at_most=False,
):
    """Loads a data set; its images become `size` as `read_image` makes them.

    Args:
        name: A TFDS name, the path of a folder, "digits", or None: CIFAR-10 where it is prepared or
            can be downloaded, otherwise the embedded digits, which is said on standard output. A
            folder holds a folder of images for each class, of which about a fifth is held out for
            the test, by the names of the files; or a folder `train` or `training` of such folders,
            and beside it the first of `test`, `testing`, `validation`, `valid`, `val` and `dev`
            that holds such folders.
        data_dir: Where TFDS keeps its data sets; None for its own choice (TFDS_DATA_DIR).
        size: Height and width in pixels.
        limit_train, limit_test: How many images to keep; None for all.
        held_out: How many of the training images stand in for the test set, always the same ones
            (`limit_train` counts the others); None for the test set itself.
        at_most: Whether a set may have fewer training images than `limit_train`: then it keeps all.

    Raises:
        DataUnavailable: If it cannot be had.
        ValueError: If it is no image classification set, holds files that cannot be read, each of
            which is named, or is smaller than a limit.
    """
    limits = {"limit_train": limit_train, "limit_test": limit_test, "held_out": held_out}
    for argument, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"`{argument}` must be at least 1, received {limit}.")
    source = sources.find(name, data_dir)
    train, test = (np.arange(len(reader)) for reader in (source.train, source.test))
    readers = [source.train, source.test]
    if held_out is not None:
        train, test = _hold_out(train, held_out)
        readers[1] = source.train
    most = min(limit_train, len(train)) if at_most else limit_train
    train, test = _first(train, most, "limit_train"), _first(test, limit_test, "limit_test")
    pairs, unreadable = [], []
    for reader, chosen, part in zip(readers, (train, test), ("training", "test"), strict=True):
        images = _room_for((len(chosen), *size, 3))
        try:
            labels = reader.read(chosen, images)
        except sources.Unreadable as problem:
            unreadable += problem.args[0]
            continue
        if len(chosen) >= min(len(reader), len(source.class_names)):  # else it is no wonder
            _say_missing(source.class_names, labels, part)
        pairs.append((images, labels))
    if unreadable:
        raise ValueError(
            f"`dataset` {source.name} holds {len(unreadable)} files that cannot be read:\n"
            + "\n".join(sorted(unreadable))
        )
    return ImageSet(source.name, source.class_names, *pairs, mirror=source.mirror)


def of_run(settings):
    """The images of a run, as its `Config` says; raises what `load` does."""
    return load(
        settings.dataset,
        settings.data_dir,
        settings.input_shape[:2],
        settings.limit_train,
        settings.limit_test,
        settings.held_out,
    )


def digest(images):
    """The SHA-256 of an array of images, which tells it from others."""
    return hashlib.sha256(images).hexdigest()


def check_unseen(what, images, held_out, run, facts):
    """Raises ValueError unless a network was trained without the images that are held out.

    Those of a folder, where images come and go, must be the very ones that it held out.

    Args:
        what: The network, as an error names it.
        images: An `ImageSet`, its test images held out of those for training.
        held_out: How many were.
        run: The `Config` of the run that trained the network; None of no run.
        facts: What config.json says of that run besides.
    """
    received = "weights of no run" if run is None else run.held_out
    changes = os.path.isabs(images.name)
    known = run is not None and (run.held_out or 0) >= held_out
    if known and facts.get("test_images_sha256") != digest(images.test[0]):
        alike = run.held_out, run.input_shape, facts.get("test_images")
        should_be_same = alike == (held_out, images.test[0].shape[1:], len(images.test[0]))
        known = run.dataset == images.name and not (changes or should_be_same)
        received = f"a run that held out {run.held_out} other images of {run.dataset}"
    if not known:
        raise ValueError(
            f"{what} must be trained without the images that are held out, so on the same data "
            f"with `held_out` {held_out}{' or more' * (not changes)}, received {received}."
        )


def describe(settings, facts):
    """What a run was trained and tested on, in a sentence, from its `Config` and facts."""
    held_out = " held out of those for training" * bool(settings.held_out)
    return (
        f"Data set {settings.dataset}, {facts['train_images']:,} training and "
        f"{facts['test_images']:,} test images{held_out}."
    )


def _hold_out(numbers, count):
    """The numbers of images without `count` of them, and those."""
    if count >= len(numbers):
        raise ValueError(f"`held_out` must be from 1 to {len(numbers) - 1}, received {count}.")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(numbers))
    return np.sort(order[count:]), np.sort(order[:count])


def _first(numbers, limit, argument):
    if limit is not None and limit > len(numbers):
        raise ValueError(f"`{argument}` must be from 1 to {len(numbers)}, received {limit}.")
    return numbers[:limit]


def _room_for(shape):
    """An array of bytes in memory, or in a file that goes with it, where that is too little."""
    wanted = int(np.prod(shape, dtype=np.int64))
    free = machine.free_memory()
    if wanted <= SHARE_OF_MEMORY * free:
        return np.empty(shape, np.uint8)
    usual = "/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir()
    folder = os.environ.get("TMPDIR", usual)  # not /tmp, which is often memory itself
    what = f"{shape[0]:,} images of {shape[1]}x{shape[2]} are {wanted / 1e9:.1f} GB"
    if wanted > shutil.disk_usage(folder).free:
        raise ValueError(
            f"{what}, more than {SHARE_OF_MEMORY:.0%} of the free memory, {free / 1e9:.1f} GB, and "
            f"more than is free in {folder}: TMPDIR may name another place, smaller images or "
            f"fewer need less."
        )
    print(f"{what}: they go into a file in {folder}, not into memory")
    return np.memmap(tempfile.TemporaryFile(dir=folder), np.uint8, "w+", shape=shape)


def _say_missing(class_names, labels, part):
    missing = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if missing:
        names = ", ".join(class_names[label] for label in missing[:5])
        names += f" and {len(missing) - 5} more" * (len(missing) > 5)
        print(f"there are no {part} images of {names}")


def _gather(pair, chosen):
    """Images and labels of a pair by their numbers, a tensor: read when they are asked for."""
    images, labels = pair
    found = tf.numpy_function(lambda numbers: images[numbers], [chosen], tf.uint8)
    return tf.ensure_shape(found, [None, *images.shape[1:]]), tf.gather(labels, chosen)


def training_batches(
    data, batch_size, seed, epochs, initial_epoch=0, *, flip, crop, said=None, part=None
):
    """The batches of epochs `initial_epoch` to `epochs`, one after another, shuffled and augmented.

    Order and augmentation of an epoch depend on `seed` and the epoch's number alone, so that a
    resumed run sees what an unbroken one would have seen. Every image comes once an epoch; the
    last batch of an epoch may be smaller. `flip` and `crop` are those of `augment`.

    Args:
        said: What a teacher says of them, a `teacher.Said`; None for no teacher.
        part: Of every batch the `index`-th of `count` parts, (index, count); None for all of it.

    Returns:
        A tf.data.Dataset of (images, labels): float32 (N, H, W, 3), normalised, and int32 (N,);
        with `said` also its probabilities. With `part` always four: those or None, and weights,
        float32 (N,), with which means over parts are those over batches, though parts differ in
        size.
    """

    def epoch_batches(epoch):
        epoch_seed = tf.stack([seed, epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(data.train[0])), epoch_seed)

        def batch(step, chosen):
            step_seed = tf.random.experimental.stateless_fold_in(epoch_seed, step)
            shift, mirrored = drawn(tf.size(chosen), step_seed, flip, crop)
            if part is not None:
                size = tf.size(chosen)
                own = slice(*strategies.bounds(size, part))
                chosen, shift, mirrored = chosen[own], shift[:, own], mirrored[own]
            images, labels = _gather(data.train, chosen)
            images = preprocess_input(moved(images, shift, mirrored))
            views = None if said is None else said.of(chosen, shift, mirrored)
            if part is not None:
                return images, labels, views, _weights(tf.size(chosen), size, part)
            return (images, labels) if said is None else (images, labels, views)

        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate().map(batch)

    return _untuned(tf.data.Dataset.range(initial_epoch, epochs).flat_map(epoch_batches))


def _untuned(batches):
    """Batches with two at hand, and without the thread that tunes pipelines.

    There is nothing to tune in these, and an iterator that goes may wait a minute for that thread.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


def _weights(own, size, part):
    return tf.fill([own], tf.cast(own * part[1] / size, tf.float32))


def test_batches(data, batch_size=TEST_BATCH_SIZE, part=None):
    """The test images in order, as `training_batches` gives them, without augmentation.

    Batches differ by at most one image, so that no part of one is empty, and have at most
    `batch_size`.
    """
    size = len(data.test[0])
    batches = -(-size // batch_size)

    def batch(index):
        first, end = strategies.bounds(size, (index, batches))
        if part is not None:
            start, stop = strategies.bounds(end - first, part)
            first, end = first + start, first + stop
        images, labels = _gather(data.test, tf.range(first, end))
        return preprocess_input(images), labels

    return _untuned(tf.data.Dataset.range(batches).map(batch))


def with_targets(batches, classes, share=0.0, temperature=1.0):
    r"""Batches with what is to be predicted, (N, classes), in place of the labels.

    With 1 at the label and 0 elsewhere as y, and what a teacher said as p, that is

    .. math:: (1 - \texttt{share})\,y + \texttt{share}\,p^{1/T} / \textstyle\sum p^{1/T}

    (G. Hinton et al., 2015; the temperature T is the teacher's alone). Probabilities are stored in
    float16, so what a teacher gave less than 3e-8 is 0 at any T.

    Args:
        batches: Of `training_batches` or `test_batches`; y alone where no teacher said anything.
        classes: How many.
        share: Of the teacher.
        temperature: T.
    """

    def with_target(images, labels, said=None, weights=None):
        target = tf.one_hot(labels, classes)
        if said is not None:
            target = taught(target, said, share, temperature)
        return (images, target) if weights is None else (images, target, weights)

    return batches.map(with_target).prefetch(2)


def taught(target, said, share, temperature):
    """What is to be predicted, (N, classes), with a teacher: see `with_targets`."""
    said = tf.cast(said, tf.float32)
    said /= tf.reduce_max(said, axis=1, keepdims=True)  # the greatest power is 1 for every T
    said **= 1.0 / temperature
    said /= tf.reduce_sum(said, axis=1, keepdims=True)
    return (1.0 - share) * target + share * said


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
    return moved(images, *drawn(tf.shape(images)[0], seed, flip, crop))


def drawn(count, seed, flip, crop):
    """How so many images are augmented: pixels of shift, int32 (2, N), and mirrored, bool (N,)."""
    shift_seed, mirror_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    shift = tf.random.stateless_uniform([2, count], shift_seed, -crop, crop + 1, dtype=tf.int32)
    if not flip:
        return shift, tf.zeros([count], tf.bool)
    return shift, tf.random.stateless_uniform([count], mirror_seed, 0, 2, dtype=tf.int32) == 1


def moved(images, shift, mirrored):
    """Images, uint8 (N, H, W, 3), augmented as `drawn` says."""
    height, width = images.shape[1:3]
    shift = shift[..., tf.newaxis]
    columns = tf.range(width)[tf.newaxis]
    columns = tf.where(mirrored[:, tf.newaxis], width - 1 - columns, columns)
    rows = _reflect(tf.range(height)[tf.newaxis] + shift[0], height)
    columns = _reflect(columns + shift[1], width)
    columns = tf.tile(columns[:, tf.newaxis], [1, height, 1])
    return tf.gather(tf.gather(images, rows, batch_dims=1), columns, batch_dims=2)


def _reflect(index, size):
    """Indices up to size - 1 beyond either border, mirrored back in."""
    index = tf.abs(index)
    return tf.where(index >= size, 2 * (size - 1) - index, index)
