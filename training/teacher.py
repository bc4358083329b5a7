"""Soft targets: what a trained network says of the training images, stored once for all runs.

A run shifts and mirrors its images at random; asking the teacher about every image anew would cost
a third of the training. It is asked about a few views of each instead, and a run takes what was
said of the view that is nearest to its own.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np

from larq_seresnet import files
from larq_seresnet.precision import layers_in
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import callbacks, config, data, fitting, machine

import tensorflow as tf


def views(flip, crop):
    """How an image may look: (rows, columns) of shift in pixels, and whether it is mirrored.

    Args:
        flip, crop: Those of `data.augment`.

    Returns:
        A list in the order of `Said.nearest`: shifts of -crop, 0 and crop, upright, then mirrored.
    """
    shifts = (-crop, 0, crop) if crop else (0,)
    mirrored = (False, True) if flip else (False,)
    return [(row, column, each) for each in mirrored for row in shifts for column in shifts]


@dataclasses.dataclass(frozen=True)
class Said:
    """A teacher's probabilities for the views of all training images.

    Attributes:
        probabilities: float16, (N, views, classes), in memory or mapped from a file.
        crop: That of `views`.
    """

    probabilities: np.ndarray
    crop: int

    def nearest(self, shift, mirrored):
        """The numbers of the views nearest to how images were augmented, int32 (N,).

        Args:
            shift, mirrored: As `data.drawn` returns them.
        """
        upright = tf.zeros_like(shift[0])
        if self.crop:
            steps = tf.cast(tf.round(shift / self.crop), tf.int32) + 1
            upright = 3 * steps[0] + steps[1]
        return upright + tf.cast(mirrored, tf.int32) * (9 if self.crop else 1)

    def of(self, chosen, shift, mirrored):
        """The probabilities for images by their numbers, float16 (n, classes)."""
        said = self.probabilities
        places = [chosen, self.nearest(shift, mirrored)]
        rows = tf.numpy_function(lambda *place: said[place], places, said.dtype)
        return tf.ensure_shape(rows, [None, said.shape[-1]])


def ask(run_dir, images, flip, crop, compute_dtype):
    """What a teacher says, a `Said`, computed once and stored in the teacher's run directory.

    Args:
        run_dir: Of the teacher, finished.
        images: A `data.ImageSet`.
        flip, crop: See `views`.
        compute_dtype: Of the teacher's layers.

    Raises:
        ValueError: If `run_dir` is no finished run of the same classes and shape of images.
    """
    run_dir = pathlib.Path(run_dir)
    settings = check(run_dir, images)
    of_what = hashlib.sha256(images.train[0])
    of_what.update(digest(run_dir).encode())
    mirrored = "flip" if flip else "upright"
    path = run_dir / f"said_{of_what.hexdigest()[:12]}_{mirrored}{crop}_{compute_dtype}.npy"
    if not path.exists():
        with files.locked(run_dir, wait=True):  # one process asks, others wait for what is said
            if not path.exists():
                _ask(path, run_dir, settings, images, views(flip, crop), compute_dtype)
    return Said(np.load(path, mmap_mode="r"), crop)


def ask_for(settings, images):
    """The same, for a run by its `Config`."""
    return ask(settings.teacher, images, settings.flip, settings.crop, settings.compute_dtype)


def _ask(path, run_dir, settings, images, chosen, compute_dtype):
    with layers_in(compute_dtype):
        model = fitting.trained(run_dir, settings, len(images.class_names))
    machine.convolve_in_float32(model)
    print(f"asking the teacher about {len(chosen)} views of every image", flush=True)
    files.replace(path, lambda part: _write(part, model, images.train[0], chosen))


def check(run_dir, images, held_out=None):
    """The `Config` of a teacher that fits some images; raises ValueError for another.

    Args:
        run_dir: Of the teacher.
        images: A `data.ImageSet`.
        held_out: How many images those it teaches are tested on instead of the test set; it must
            not have been trained on them.
    """
    run_dir = pathlib.Path(run_dir)
    if not (run_dir / config.WEIGHTS_FILE).exists():
        raise ValueError(f"`teacher` must be the directory of a finished run, received {run_dir}.")
    settings, facts = config.load(run_dir)
    epochs = len(callbacks.read_log(run_dir / callbacks.LOG_FILE))
    if epochs < settings.epochs:
        raise ValueError(
            f"`teacher` must be the directory of a finished run, received {run_dir} after "
            f"{epochs} of {settings.epochs} epochs."
        )
    shape = images.train[0].shape[1:]
    if settings.input_shape != shape:
        raise ValueError(
            f"`teacher` {run_dir} must take images of {shape}, it takes {settings.input_shape}."
        )
    if facts.get("class_names") != list(images.class_names):
        raise ValueError(
            f"`teacher` {run_dir} must know the same classes, it knows {facts.get('class_names')}."
        )
    if held_out:
        data.check_unseen(f"`teacher` {run_dir}", images, held_out, settings, facts)
    return settings


def digest(run_dir):
    """The SHA-256 of a teacher's weights."""
    return files.digest(pathlib.Path(run_dir) / config.WEIGHTS_FILE)


def _write(part, model, images, chosen, batch_size=500):
    shape = (len(images), len(chosen), model.output_shape[-1])
    with open(part, "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(images), batch_size):
            batch = tf.constant(images[start : start + batch_size])
            said = [model.predict_on_batch(_seen(batch, view)) for view in chosen]
            file.write(np.stack(said, axis=1).astype("<f2").tobytes())


def _seen(batch, view):
    """Images as a model takes them, all in one view."""
    row, column, mirrored = view
    shift = tf.repeat([[row], [column]], len(batch), axis=1)
    return preprocess_input(data.moved(batch, shift, tf.fill([len(batch)], mirrored)))
