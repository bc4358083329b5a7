"""Training throughput of train.py against plain `model.fit`, both in one run on one machine.

Plain is what one writes first: float32, batches of 128, crop and flip on float images inside
tf.data. Both train the same network on the same images in memory, turn and turn about; the first
epoch of each turn warms up and does not count.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import argparse
import pathlib
import statistics
import tempfile
import time

import tensorflow as tf

from larq_seresnet import SEResNet14
from larq_seresnet.preprocessing import MEAN, STD
from larq_seresnet.training import callbacks, data, train

PLAIN_BATCH_SIZE = 128


def main(argv=None):
    """Prints images/s of both and their ratio."""
    parser = argparse.ArgumentParser(prog="throughput.py", description=__doc__)
    parser.add_argument("--dataset", default="cifar10", help="default: cifar10")
    parser.add_argument("--precision", default="w1", help="default: w1")
    parser.add_argument("--images", type=int, default=8192, help="an epoch, default: 8192")
    parser.add_argument("--epochs", type=int, default=3, help="a turn, default: 3")
    parser.add_argument("--turns", type=int, default=3, help="of each, default: 3")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 2 or arguments.turns < 1:
        parser.error("--epochs must be at least 2, the first warms up, and --turns at least 1")
    images = data.load(arguments.dataset, limit_train=arguments.images, limit_test=500)
    model = SEResNet14(
        precision=arguments.precision, num_classes=len(images.class_names), weights=None
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[callbacks.error])
    plain, ours = [], []
    for turn in range(arguments.turns):
        plain += _plain_epochs(model, images, arguments.epochs)[1:]
        ours += _train_epochs(arguments, turn)[1:]
    for name, rates in (("plain model.fit", plain), ("train.py", ours)):
        print(
            f"{name}: median {statistics.median(rates):.0f} images/s, "
            f"{min(rates):.0f} to {max(rates):.0f} in {len(rates)} epochs"
        )
    ratio = statistics.median(ours) / statistics.median(plain)
    print(f"ratio {ratio:.2f} on {os.cpu_count()} cores, {_processor()}")
    return ratio


def _plain_epochs(model, images, epochs):
    """Images/s of each epoch of plain `model.fit`."""

    def augment(image, label):
        image = (tf.cast(image, tf.float32) - MEAN) / STD
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), image.shape)
        return tf.image.random_flip_left_right(image), label

    batches = (
        tf.data.Dataset.from_tensor_slices(images.train)
        .shuffle(len(images.train[0]))
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(PLAIN_BATCH_SIZE)
        .prefetch(tf.data.AUTOTUNE)
    )
    seconds = []

    class Clock(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.started)

    model.fit(batches, epochs=epochs, verbose=0, callbacks=[Clock()])
    return [len(images.train[0]) / each for each in seconds]


def _train_epochs(arguments, seed):
    """Images/s of each epoch of train.py, as its own log says."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "dataset": arguments.dataset,
            "limit-train": arguments.images,
            "limit-test": 500,
            "precision": arguments.precision,
            "epochs": arguments.epochs,
            "seed": seed,
            "run-dir": pathlib.Path(folder) / "run",
        }
        run_dir = train.main([f"--{name}={value}" for name, value in flags.items()])
        return [row["images_per_second"] for row in callbacks.read_log(run_dir / "log.csv")]


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


if __name__ == "__main__":
    main()
