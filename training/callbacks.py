"""What a run writes while it trains: error log, gate records, checkpoint."""

import csv
import io
import math
import os
import pathlib
import sys
import time

import numpy as np

from larq_seresnet import files
from larq_seresnet.layers import FMB, SqueezeExcite

import tensorflow as tf

LOG_FILE = "log.csv"
LOG_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "seconds",
    "images_per_second",
    "dataset",
)
NUMBERS = LOG_COLUMNS[:-1]
GATES_FILE = "gates.npz"
#: What TensorFlow takes for a pattern where it looks for the files of a checkpoint.
_PATTERNS = "*?[" + "\\" * (os.sep == "/")
#: Test images whose gates a run records.
GATE_IMAGES = 256


def error(targets, probabilities):
    """Top-1 error, 0 or 1 an image, shape (N,), of (N, C): a metric for `model.compile`."""
    return 1.0 - tf.keras.metrics.categorical_accuracy(targets, probabilities)


def is_finite(logs):
    """Whether an epoch's losses are numbers: that on test images sees the last update too."""
    return math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])


class ErrorLog(tf.keras.callbacks.Callback):
    """One row an epoch in log.csv, and a line on screen.

    Train loss and error are means over the epoch, on augmented images and while the weights move;
    the loss is against a teacher's targets, where there is one, and includes the term that closes
    gates, until they settle. The test figures are of the weights after the epoch. `learning_rate`
    is Adam's, at the epoch's last step. `seconds` and `images_per_second` are of the training steps
    and their input alone, without the test and what is written after it.

    Args:
        path: log.csv; rows after the first `initial_epoch` ones are dropped: a resumed run writes
            them again.
        images: The `data.ImageSet` that is trained on.
        initial_epoch: How many epochs are done.

    Raises:
        ValueError: If `path` does not hold `initial_epoch` rows.
    """

    def __init__(self, path, images, initial_epoch=0):
        super().__init__()
        self.path = pathlib.Path(path)
        self.dataset = images.name
        self.images = len(images.train[0])
        rows = _rows(self.path)[: 1 + initial_epoch] if initial_epoch else [LOG_COLUMNS]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        files.write_text(self.path, text.getvalue())
        if len(read_log(self.path)) < initial_epoch:
            raise ValueError(f"{path} must hold the {initial_epoch} epochs of the checkpoint.")

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.trained - self.started
        row = {
            "epoch": epoch + 1,
            "learning_rate": f"{self.model.optimizer.learning_rate.numpy():.6g}",
            "train_loss": f"{logs['loss']:.6f}",
            "train_error": f"{logs['error']:.6f}",
            "test_loss": f"{logs['val_loss']:.6f}",
            "test_error": f"{logs['val_error']:.6f}",
            "seconds": f"{seconds:.2f}",
            "images_per_second": f"{self.images / seconds:.1f}",
            "dataset": self.dataset,
        }
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n").writerow(row)
        print(
            f"epoch {epoch + 1}: train error {logs['error']:.2%}, "
            f"test error {logs['val_error']:.2%}, {self.images / seconds:.0f} images/s",
            flush=True,
        )


def read_log(path):
    """The rows of a log.csv, numbers as numbers.

    Raises:
        ValueError: If it has other columns, or a row was cut off.
    """
    columns, *rows = map(tuple, _rows(path) or [()])
    if columns != LOG_COLUMNS:
        raise ValueError(f"{path} must have the columns {LOG_COLUMNS}, received {columns}.")
    try:
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return [
            {**row, **{key: float(row[key]) for key in NUMBERS}, "epoch": int(row["epoch"])}
            for row in named
        ]
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"{path} has a row that was cut off or is no number: {problem}"
        ) from problem


def _rows(path):
    """All rows of a log as texts, the header among them."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"{path} is no text of rows: {problem}") from problem


class GateRecorder(tf.keras.callbacks.Callback):
    """Records what every SE module says of the same images, after chosen epochs.

    Gates of positions (`SpatialAttention`) are not recorded: they would take megabytes an epoch.

    gates.npz holds, for every epoch and module, the attention values M_c as
    ``epoch001/stage1_block1_se`` and, with FMB, the gates M'_c as ``epoch001/stage1_block1_fmb``:
    float32, (images, C).

    Args:
        path: gates.npz; what it already holds is kept.
        images: What the model takes, (N, H, W, 3), normalised.
        epochs: After which epochs, counted from 1.
        dataset: Name of the data set the images are from, kept as ``dataset``.

    Raises:
        ValueError: If `path` is damaged.
    """

    def __init__(self, path, images, epochs, dataset):
        super().__init__()
        self.path = pathlib.Path(path)
        self.images = images
        self.epochs = set(epochs)
        self.records = {"dataset": np.array(dataset)}
        if self.path.is_file():
            self.records = files.load_arrays(self.path)

    def set_model(self, model):
        super().set_model(model)
        layers = [
            layer
            for layer in model.layers
            if isinstance(layer, (SqueezeExcite, FMB)) and "_spatial" not in layer.name
        ]
        self.gates = {layer.name: layer.output for layer in layers}
        if self.gates:
            self.probe = tf.keras.Model(model.input, self.gates)

    def on_epoch_end(self, epoch, logs=None):
        if not self.gates or epoch + 1 not in self.epochs:
            return
        for name, values in self.probe(self.images, training=False).items():
            values = tf.cast(values, tf.float32).numpy()
            self.records[f"epoch{epoch + 1:03d}/{name}"] = values[:, 0, 0]
        files.replace(self.path, lambda part: files.save_arrays(part, self.records))


def read_gates(path):
    """What `GateRecorder` wrote: by epoch, counted from 1, and layer, the values (N, C).

    Raises:
        ValueError: If it did not, or the file was damaged.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, values in files.load_arrays(path).items():
        epoch, _, layer = key.partition("/")
        if layer and not epoch.removeprefix("epoch").isdecimal():
            raise ValueError(f"{path} must have names like epoch001/stage1_block1_se, holds {key}.")
        if layer:
            found.setdefault(int(epoch.removeprefix("epoch")), {})[layer] = values
    return found


class Checkpoint(tf.keras.callbacks.Callback):
    """Keeps the last two finished epochs: weights, optimizer state and the epoch's number.

    A new checkpoint is complete before an old one goes, and one whose loss is not a number is never
    written. Where the last one was damaged, the one before is there.

    Args:
        directory: Where; one that exists is continued by `restore`.
        model: Compiled.

    Raises:
        ValueError: If the path has a character that TensorFlow takes for a pattern of file names.
    """

    def __init__(self, directory, model):
        super().__init__()
        self.directory = str(directory)
        if set(_PATTERNS) & set(self.directory):
            raise ValueError(
                f"`run_dir` must have a path without {' '.join(_PATTERNS)}, by which TensorFlow "
                f"finds, and deletes, checkpoints of others, received {self.directory}."
            )
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
        model.optimizer.build(model.trainable_variables)
        listed = pathlib.Path(directory) / "checkpoint"
        if listed.exists() and not listed.read_bytes().isascii():
            listed.unlink()  # damaged; TensorFlow would not begin
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=model.optimizer, epoch=self.epoch),
            self.directory,
            max_to_keep=2,
        )

    def restore(self):
        """Restores the last checkpoint that is whole, all of it.

        Returns:
            How many epochs it has seen, 0 if there is none.

        Raises:
            ValueError: If there are some, and all are damaged.
        """
        found = sorted(  # not by TensorFlow's list of them, which may be damaged as well
            pathlib.Path(self.directory).glob("ckpt-*.index"),
            key=lambda path: int(path.stem.removeprefix("ckpt-")),
        )
        problem = None
        for path in reversed(found):
            try:
                status = self.manager.checkpoint.restore(str(path.with_suffix("")))
                status.assert_existing_objects_matched()
            except (AssertionError, ValueError, tf.errors.OpError) as error:
                problem = error
                print(f"{path.with_suffix('')} is damaged, and left out", file=sys.stderr)
                continue
            return int(self.epoch.numpy())
        if problem is not None:
            raise ValueError(f"{self.directory} holds a damaged checkpoint: {problem}") from problem
        return 0

    def on_epoch_end(self, epoch, logs=None):
        if is_finite(logs):
            self.epoch.assign(epoch + 1)
            self.manager.save()
