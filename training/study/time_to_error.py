"""Seconds of training until the bits are at an error: recipe `fast` against plain Keras.

    python training/study/time_to_error.py [--error 0.2] [--epochs 40]

Plain is what one writes first: float32, Adam at 1e-3, batches of 128, crops and flips in tf.data;
the `w1` network without SE. It trains until the test after an epoch is at or under the error.
Recipe `fast`, SE + FMB, anneals its rate over a budget: it is tried with budgets of 1, 2, 3, ...
epochs until one ends there, and the seconds are those of that one. Both in one run on one machine;
tests do not count, the estimation of BatchNorm's statistics does.
"""

import argparse
import os
import pathlib
import tempfile
import time

from larq_seresnet import SEResNet14, files, preprocess_input, programs
from larq_seresnet.training import callbacks, config, data, machine, throughput, train

import tensorflow as tf


def main(argv=None):
    """Prints a table; returns (seconds, epochs, error) of both, None for what never got there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--error", type=float, default=0.2, help="default: 0.2")
    parser.add_argument("--epochs", type=int, default=40, help="at most, default: 40")
    parser.add_argument("--dataset", default="cifar10", help="default: cifar10")
    parser.add_argument("--filters", type=int, nargs=3, default=config.Config().filters)
    parser.add_argument("--limit-train", type=int, metavar="N", help="default all")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if not 0 < arguments.error < 1:
            raise ValueError(f"--error must be between 0 and 1, received {arguments.error}.")
        images = data.load(arguments.dataset, limit_train=arguments.limit_train)
    found = {"plain Keras, no SE": plain(images, arguments), "fast, SE + FMB": fast(arguments)}
    rows = [
        (name, f"{each[0]:.0f}", each[1], f"{each[2]:.2%}") if each else (name, "-", "-", "never")
        for name, each in found.items()
    ]
    print(files.table(("", f"seconds to {arguments.error:.0%} error", "epochs", "error"), rows))
    if all(found.values()):
        seconds = [each[0] for each in found.values()]
        print(f"{seconds[0] / seconds[1]:.1f} times sooner")
    print(f"on {os.cpu_count()} cores, {machine.processor()}")
    return found


def plain(images, arguments):
    """What plain `model.fit` takes: (seconds, epochs, error), or None."""
    tf.keras.utils.set_random_seed(arguments.seed)
    classes = len(images.class_names)
    model = SEResNet14(attention=None, filters=arguments.filters, num_classes=classes, weights=None)
    optimizer = tf.keras.optimizers.Adam(1e-3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches, seconds = throughput.plain_batches(images), 0.0
    inputs = preprocess_input(images.test[0])
    for epoch in range(1, arguments.epochs + 1):
        started = time.perf_counter()
        model.fit(batches, verbose=0)
        seconds += time.perf_counter() - started
        error = 1 - model.evaluate(inputs, images.test[1], batch_size=500, verbose=0)[1]
        print(f"plain, epoch {epoch}: {seconds:.0f} s, error {error:.2%}", flush=True)
        if error <= arguments.error:
            return seconds, epoch, error
    return None


def fast(arguments):
    """What the first budget of recipe `fast` that gets there takes, likewise."""
    for epochs in range(1, arguments.epochs + 1):
        flags = {
            "dataset": arguments.dataset,
            "epochs": epochs,
            "seed": arguments.seed,
            **({"limit-train": arguments.limit_train} if arguments.limit_train else {}),
        }
        with tempfile.TemporaryDirectory() as folder:
            words = [f"--{name}={value}" for name, value in flags.items()]
            words += ["--filters", *map(str, arguments.filters)]
            run_dir = train.main([*words, "--run-dir", str(pathlib.Path(folder) / "run")])
            log = callbacks.read_log(run_dir / callbacks.LOG_FILE)
            settings, _ = config.load(run_dir)
        if log[-1]["test_error"] <= arguments.error:
            images = data.load(arguments.dataset, limit_train=arguments.limit_train, limit_test=1)
            estimation = throughput.statistics_seconds(
                train.compiled_model(settings, images), images
            )
            seconds = sum(row["seconds"] for row in log) + epochs * estimation
            return seconds, epochs, log[-1]["test_error"]
    return None


if __name__ == "__main__":
    main()
