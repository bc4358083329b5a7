"""Seconds of training until a 1-bit network is at an error: recipe `fast` against plain Keras.

    python training/study/time_to_error.py [--error 0.2] [--epochs 40] [--out-dir results/goals]

Plain is what one writes first: float32, Adam at 1e-3, batches of 128, crops and flips in tf.data;
the `w1` network without SE. It trains until the test after an epoch is at or under the error.
Recipe `fast`, SE + FMB, anneals its rate over a budget: it is tried with budgets of 1, 2, 3, ...
epochs until one ends there, and the seconds are those of that one. Both in one run on one machine;
tests do not count, the estimation of BatchNorm's statistics does. Writes time_to_error.json, from
which `reproduce.py --profile goals` tells what became of the goal.
"""

import argparse
import json
import math
import os
import pathlib

from larq_seresnet import SEResNet14, files, preprocess_input, programs
from larq_seresnet.training import (
    batch_norm,
    config,
    data,
    fitting,
    machine,
    throughput,
)

import tensorflow as tf

FILE = "time_to_error.json"


def main(argv=None):
    """Prints a table and writes `FILE`; returns what that holds, a dict for json.

    "plain": seconds and error after each of its epochs; "fast": for each budget that was tried its
    epochs, seconds and error. The last of either is at or under "error", unless it never got there.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--error", type=float, default=0.2, help="default: 0.2")
    parser.add_argument("--epochs", type=int, default=40, help="at most, default: 40")
    parser.add_argument("--dataset", default="cifar10", help="default: cifar10")
    parser.add_argument("--filters", type=int, nargs=3, default=config.Config().filters)
    parser.add_argument("--limit-train", type=int, metavar="N", help="default all")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out-dir", type=pathlib.Path, default=".", help="default: here")
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if not 0 < arguments.error < 1:
            raise ValueError(f"--error must be between 0 and 1, received {arguments.error}.")
        if arguments.epochs < 1:
            raise ValueError(f"--epochs must be at least 1, received {arguments.epochs}.")
        config.Config(seed=arguments.seed)  # refuses a bad one
        SEResNet14(filters=arguments.filters, weights=None)  # likewise
        images = data.load(arguments.dataset, limit_train=arguments.limit_train)
        arguments.out_dir.mkdir(parents=True, exist_ok=True)  # before an hour of training
    with programs.failing(parser):
        found = {
            "error": arguments.error,
            "dataset": images.name,
            "training_images": len(images.train[0]),
            "seed": arguments.seed,
            "processor": machine.processor(),
            "cores": os.cpu_count(),
            "compute_dtype": fitting.compute_dtype("auto"),
            "plain": plain(images, arguments),
            "fast": fast(images, arguments),
        }
        text = json.dumps(found, indent=1) + "\n"
        files.write_text(arguments.out_dir / FILE, text)
    print(markdown(found))
    return found


def plain(images, arguments):
    """Epochs, seconds and error after each epoch of plain `model.fit`, until it is there."""
    tf.keras.utils.set_random_seed(arguments.seed)
    classes = len(images.class_names)
    model = SEResNet14(attention=None, filters=arguments.filters, num_classes=classes, weights=None)
    optimizer = tf.keras.optimizers.Adam(1e-3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches, clock, found = throughput.plain_batches(images), throughput.Clock(), []
    inputs = preprocess_input(images.test[0])
    for epoch in range(1, arguments.epochs + 1):
        model.fit(batches, verbose=0, callbacks=[clock])
        seconds = sum(clock.seconds)
        error = 1 - model.evaluate(inputs, images.test[1], batch_size=500, verbose=0)[1]
        print(f"plain, epoch {epoch}: {seconds:.0f} s, error {error:.2%}", flush=True)
        found.append({"epochs": epoch, "seconds": seconds, "error": error})
        if error <= arguments.error:
            break
    return found


def fast(images, arguments):
    """Epochs, seconds and error of one budget of recipe `fast` after another, until one is there.

    What BatchNorm's statistics take is measured once, at the end.
    """
    found = []
    for epochs in range(1, arguments.epochs + 1):
        limit = {"limit_train": arguments.limit_train} if arguments.limit_train else {}
        settings, log = throughput.trained(
            dataset=arguments.dataset,
            epochs=epochs,
            seed=arguments.seed,
            filters=tuple(arguments.filters),
            **limit,
        )
        seconds, error = sum(row["seconds"] for row in log), log[-1]["test_error"]
        found.append({"epochs": epochs, "seconds": seconds, "error": error})
        if error <= arguments.error:
            break
    estimation = throughput.statistics_seconds(fitting.compiled_model(settings, images), images)
    for each in found:
        chosen = estimated(each["epochs"], len(images.train[0]))
        each["seconds"] += estimation * chosen / batch_norm.IMAGES
    return found


def estimated(epochs, count):
    """From how many of so many images statistics are estimated in a training: more at its end."""
    before, last = (min(each, count) for each in (batch_norm.IMAGES, batch_norm.LAST_IMAGES))
    return (epochs - 1) * before + last


def read(folder):
    """What `main` wrote into a folder; None if it did not."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else None


def share_of_plain(found):
    """The time that `fast` takes, of plain Keras's; infinite if it never got there.

    If plain Keras never did, its time is that of all its epochs, and the share is smaller yet.
    """
    of_plain, of_fast = (found[way][-1] for way in ("plain", "fast"))
    there = of_fast["error"] <= found["error"]
    return of_fast["seconds"] / of_plain["seconds"] if there else math.inf


def markdown(found):
    """What was found for people."""
    rows = []
    for name, way in (("plain Keras, no SE", "plain"), ("fast, SE + FMB", "fast")):
        last = found[way][-1]
        is_there = last["error"] <= found["error"]
        cells = f"{last['seconds']:,.0f}", last["epochs"], f"{last['error']:.2%}"
        rows.append((name, *cells, "yes" if is_there else "never"))
    header = ("", "seconds", "epochs", "error", f"at {found['error']:.0%} or less")
    return (
        files.table(header, rows)
        + f"\n{_told(found)}; seed {found['seed']}, {found['training_images']:,} training images "
        f"of {found['dataset']}, {found['cores']} cores, {found['processor']}; fast in "
        f"{found['compute_dtype']}, plain Keras in float32\n"
    )


def _told(found):
    share = share_of_plain(found)
    if share == math.inf:
        return "fast never got there"
    if share > 1:
        return f"{times_sooner(1 / share)} later"
    is_more = found["plain"][-1]["error"] > found["error"]
    return f"{'more than ' * is_more}{times_sooner(share)} sooner"


def times_sooner(share):
    """A share of plain Keras's time in words."""
    return "never" if share == math.inf else f"{1 / share:.1f} times"


if __name__ == "__main__":
    main()
