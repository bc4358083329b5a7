"""Training throughput of train.py against plain `model.fit`, both in one run on one machine.

Plain is what one writes first: float32, batches of 128, crop and flip on float images inside
tf.data. Both train the same network on the same images in memory, turn and turn about; the first
epoch of each turn warms up and does not count. An epoch is its training steps and their input, not
the tests and checkpoints after it. A third figure is what the convolutions and their gradients
alone would allow, each operator by itself in the dtype and batch of train.py: about what remains if
all else in a step cost nothing. Beside them, what BatchNorm's statistics for a test cost.
"""

import argparse
import collections
import functools
import os
import pathlib
import statistics
import tempfile
import time
import timeit

import numpy as np

from larq_seresnet import SEResNet14, programs
from larq_seresnet.preprocessing import MEAN, STD
from larq_seresnet.training import (
    batch_norm,
    callbacks,
    config,
    data,
    fitting,
    flags,
    machine,
    train,
)

import tensorflow as tf

PLAIN_BATCH_SIZE = 128
REPEATS = 5
PROFILED_STEPS = 10
TEST_IMAGES = 300
CIFAR10_IMAGES = 50_000


def main(argv=None):
    """Prints images/s of both and their ratio; returns the rates."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        for name, least in (("epochs", 2), ("turns", 1), ("images", 1)):  # the first warms up
            if getattr(arguments, name) < least:
                received = getattr(arguments, name)
                raise ValueError(f"--{name} must be at least {least}, received {received}.")
        images = data.load(arguments.dataset, limit_train=arguments.images, at_most=True)
        plain = SEResNet14(
            precision=arguments.precision,
            filters=arguments.filters,
            num_classes=len(images.class_names),
            weights=None,
        )
    with programs.failing(parser):
        return _measured(plain, images, arguments)


def _measured(plain, images, arguments):
    plain.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    settings, rates = _rates(plain, images, arguments)
    base = statistics.median(rates["plain model.fit"])
    for name, found in rates.items():
        print(
            f"{name}: median {statistics.median(found):.0f} images/s, {min(found):.0f} to "
            f"{max(found):.0f} in {len(found)}; {statistics.median(found) / base:.2f} times plain"
        )
    model = fitting.compiled_model(settings, images)
    seconds = statistics_seconds(model, images)
    epoch = CIFAR10_IMAGES / statistics.median(rates["train.py"])
    print(
        f"BatchNorm's statistics before a test, of {batch_norm.IMAGES:,} images: {seconds:.2f} s, "
        f"{seconds / epoch:.1%} of an epoch of {CIFAR10_IMAGES:,} images"
    )
    cores, dtype = os.cpu_count(), settings.compute_dtype
    print(f"on {cores} cores, {machine.processor()}, computing in {dtype}")
    if arguments.profile:
        found = profile(model, settings, images)
        print(f"a step of {settings.batch_size} images, milliseconds of all cores together:")
        for operator, milliseconds in found.most_common():
            if milliseconds >= 0.01 * found.total():
                print(f"{operator}: {milliseconds:.1f}, {milliseconds / found.total():.0%}")
    return rates


def _parser():
    parser = argparse.ArgumentParser(prog="throughput.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset", default="cifar10", help="default: cifar10")
    parser.add_argument("--precision", default="w1", help="default: w1")
    parser.add_argument(
        "--filters", type=int, nargs=3, default=config.Config().filters, metavar="C"
    )
    parser.add_argument("--images", type=int, default=8192, help="an epoch at most, default: 8192")
    parser.add_argument("--epochs", type=int, default=3, help="a turn, default: 3")
    parser.add_argument("--turns", type=int, default=3, help="of each, default: 3")
    parser.add_argument(
        "--profile", action="store_true", help="say too where a step of train.py goes, by operator"
    )
    return parser


def _rates(plain, images, arguments):
    """The `Config` of a run of train.py, and images/s by what was measured, turn and turn about."""
    rates: dict[str, list[float]] = {
        "plain model.fit": [],
        "train.py": [],
        "convolutions alone": [],
    }
    for turn in range(arguments.turns):
        rates["plain model.fit"] += _plain_epochs(plain, images, arguments.epochs)[1:]
        settings, ours = _train_epochs(images, arguments, turn)
        rates["train.py"] += ours[1:]
        dtype = tf.dtypes.as_dtype(settings.compute_dtype)
        seconds = convolution_seconds(plain, settings.batch_size, dtype)
        rates["convolutions alone"].append(settings.batch_size / seconds)
    return settings, rates


def plain_batches(images):
    """The training batches of an `ImageSet` as one writes them first: float images, in tf.data."""

    def augment(image, label):
        image = (tf.cast(image, tf.float32) - MEAN) / STD
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), image.shape)
        return tf.image.random_flip_left_right(image), label

    return (
        tf.data.Dataset.from_tensor_slices(images.train)
        .shuffle(len(images.train[0]))
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(PLAIN_BATCH_SIZE)
        .prefetch(tf.data.AUTOTUNE)
    )


class Clock(tf.keras.callbacks.Callback):
    """Seconds of each epoch's steps and their input, not of what tf.data waits for after it."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.started)


def _plain_epochs(model, images, epochs):
    """Images/s of each epoch of plain `model.fit`."""
    clock = Clock()
    model.fit(plain_batches(images), epochs=epochs, verbose=0, callbacks=[clock])
    return [len(images.train[0]) / each for each in clock.seconds]


def _train_epochs(images, arguments, seed):
    """The config of a run of train.py, and images/s of each epoch as its own log says."""
    settings, log = trained(
        dataset=arguments.dataset,
        limit_train=len(images.train[0]),
        limit_test=min(len(images.test[0]), TEST_IMAGES),
        precision=arguments.precision,
        epochs=arguments.epochs,
        seed=seed,
        filters=tuple(arguments.filters),
    )
    return settings, [row["images_per_second"] for row in log]


def trained(**arguments):
    """Trains by train.py what does not stay; returns its config and the rows of its log."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = train.main([*flags.words(arguments), "--run-dir", f"{folder}/run"])
        return config.load(run_dir)[0], callbacks.read_log(run_dir / callbacks.LOG_FILE)


def convolution_seconds(model, batch_size, dtype):
    """The time of a step's convolutions, forward and both gradients, each by itself.

    Args:
        model: From `SEResNet14`; its weights do not matter.
        batch_size: Images.
        dtype: Of images and kernels.

    Returns:
        Seconds: for every operator the least of `REPEATS`, summed.
    """
    seconds = 0.0
    for layer in model.layers:
        if not isinstance(layer, tf.keras.layers.Conv2D):
            continue
        inputs = tf.zeros([batch_size, *layer.input_shape[1:]], dtype)
        upstream = tf.zeros([batch_size, *layer.output_shape[1:]], dtype)
        kernel = tf.zeros(layer.kernel.shape, dtype)
        common = {"strides": [1, *layer.strides, 1], "padding": "SAME"}
        operators = [
            functools.partial(tf.raw_ops.Conv2D, input=inputs, filter=kernel, **common),
            functools.partial(
                tf.raw_ops.Conv2DBackpropFilter,
                input=inputs,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                **common,
            ),
            functools.partial(
                tf.raw_ops.Conv2DBackpropInput,
                input_sizes=inputs.shape,
                filter=kernel,
                out_backprop=upstream,
                **common,
            ),
        ]
        if layer.name == "stem_conv":
            operators.pop()  # nothing needs the gradient of the image
        for operator in operators:
            compiled = tf.function(operator)
            compiled()
            seconds += min(timeit.repeat(compiled, number=1, repeat=REPEATS))
    return seconds


def statistics_seconds(model, images):
    """The median time of estimating BatchNorm's statistics before a test.

    Of as many images as before any but the last test, though there may be fewer to take them from.
    """
    estimator = batch_norm.BatchNormEstimator(images)
    estimator.set_model(model)
    chosen = np.resize(images.train[0], (batch_norm.IMAGES, *images.train[0].shape[1:]))
    estimator.estimate(chosen)  # traces
    return statistics.median(
        timeit.repeat(lambda: estimator.estimate(chosen), number=1, repeat=REPEATS)
    )


def profile(model, settings, images):
    """Where a step of train.py goes, by TensorFlow's profiler.

    Args:
        model: What is trained, compiled.
        settings: The `Config` of a run, nothing left to the machine.
        images: A `data.ImageSet`.

    Returns:
        A Counter: by type of operator, milliseconds a step, those of all threads added.
    """
    fitting.hardening(model, settings, images)
    batches = data.training_batches(
        images, settings.batch_size, 0, epochs=1000, flip=settings.flip, crop=settings.crop
    )
    batches = iter(data.with_targets(batches, len(images.class_names)))
    model.train_on_batch(*next(batches))
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(PROFILED_STEPS):
                model.train_on_batch(*next(batches))
        # it moves from one TensorFlow to the next, so nothing else here should need it
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    found: collections.Counter[str] = collections.Counter()
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    for event in (event for line in plane.lines for event in line.events):
        name = plane.event_metadata[event.metadata_id].name
        node, _, operator = name.rpartition(":")
        if node and "::" not in name and operator.isidentifier():  # the executor's node:type
            found[operator] += event.duration_ps / 1e9 / PROFILED_STEPS
    return found


if __name__ == "__main__":
    main()
