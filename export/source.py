"""What every command here begins with: trained weights, and the images to prove them on."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys

from larq_seresnet import from_weights
from larq_seresnet.training import config, data, sources
from larq_seresnet.weights import read, shipped_files

#: What of a data set's training images a run was given.
_PARTS = ("limit_train", "held_out")
NAMELESS = "does not name its classes, so labels.txt is not written (see save_weights)"


def add_arguments(parser, tests=True, **options):
    """Gives a parser the arguments that `load` reads.

    Args:
        tests: Whether it looks at test images.
        options: Of the argument that is the source.
    """
    parser.set_defaults(limit_test=None)
    parser.add_argument(
        "source",
        type=pathlib.Path,
        metavar="RUN_DIR|WEIGHTS",
        help="what train.py or save_weights wrote, or the name of weights that ship: "
        + ", ".join(shipped_files()),
        **options,
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose images to use; default: as in training",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps data sets")
    if tests:
        parser.add_argument(
            "--limit-test", type=int, metavar="N", help="use this many test images, default all"
        )


def add_out_dir(parser):
    """Gives a parser the argument that says where to write, if not where `load` says."""
    parser.add_argument(
        "--out-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="default: beside weights.h5; for weights of another name, a folder of this name "
        "without its ending",
    )


def load(arguments, source=None, limit_train=1, as_trained=False):
    """The model of a weight file, and its data set.

    Args:
        arguments: What a parser made of `add_arguments`.
        source: Which source, where there may be several; None for the one there is.
        limit_train: How many training images to load at most.
        as_trained: Whether to load all instead: of a run those that it was trained on, and what it
            held out of them as test images.

    Returns:
        A float32 `SEResNet14`, a `data.ImageSet`, and the directory that is theirs. The images have
        the names of the model's classes; where these are not the data set's, labels are None, and
        where the weights do not know them, there are no names.

    Raises:
        ValueError, OSError: If there are no weights, none of a classifier, or
            no data that fit them.
    """
    weights, directory, settings = locate(source or arguments.source)
    contents = read(weights)
    classes, trained_on = contents.configuration["num_classes"], contents.trained_on
    model = _classifier(weights)
    if not (arguments.dataset or trained_on):
        raise ValueError(f"--dataset is needed: {weights} does not say what it was trained on.")
    dataset, part = arguments.dataset or trained_on, {"limit_train": limit_train, "at_most": True}
    load = functools.partial(
        data.load,
        dataset,
        arguments.data_dir or _data_dir(settings),
        model.input_shape[1:3],
        limit_test=arguments.limit_test,
    )
    images = _as_trained(load, weights, dataset) if as_trained else load(**part)
    if len(images.class_names) != classes:
        raise ValueError(
            f"`dataset` must have {classes} classes, as the model has, received "
            f"{images.name} with {len(images.class_names)}."
        )
    names = contents.class_names or (images.class_names if images.name == trained_on else ())
    if tuple(names) != tuple(images.class_names):
        print(
            f"{weights} {f'is of other classes than {images.name}' if names else NAMELESS}: "
            f"agreement can be told, error not.",
            file=sys.stderr,
        )
        unlabelled = {part: (getattr(images, part)[0], None) for part in ("train", "test")}
        images = dataclasses.replace(images, class_names=tuple(names), **unlabelled)
    return model, images, directory


def _data_dir(settings):
    """Where a run had its data, if that is still there; else TFDS knows better."""
    there = settings and settings.data_dir and pathlib.Path(settings.data_dir).is_dir()
    return settings.data_dir if there else None


def _as_trained(load, weights, dataset):
    """The images that a network was trained on, and those held out; of another data set all."""
    settings, facts = config.facts_of_weights(weights)
    if settings is None:
        return load()
    parts = {name: getattr(settings, name) for name in _PARTS}
    if settings.dataset == sources.full_name(dataset):
        return load(**parts)
    with contextlib.suppress(ValueError):  # of fewer images than were held out
        images = load(**parts)
        if data.digest(images.train[0]) == facts["train_images_sha256"]:
            return images  # which moved
    return load()


def _classifier(weights):
    """The model of a weight file, if it is one that classifies RGB images."""
    model = from_weights(weights)
    if not json.loads(model.configuration)["include_top"]:
        raise ValueError(f"{weights} must have a classifier, received include_top=False.")
    if model.input_shape[-1] != 3:
        raise ValueError(
            f"{weights} must be of a network of RGB images, as data sets hold, received "
            f"input_shape={model.input_shape[1:]}: convert.to_tflite converts it, not proved."
        )
    return model


def locate(source):
    """The weight file, the directory for what is made of it, and its run's `Config`, or None.

    That directory is the one that holds weights.h5, or for a file of another name one of this name
    beside it, without its ending.

    Args:
        source: The name of weights that ship, a weight file, or a directory that holds one: a
            run's, or what prune.py wrote.
    """
    if str(source) in shipped_files():
        return shipped_files()[str(source)], source, None
    if not source.exists():
        raise ValueError(
            f"{source} does not exist: a run directory or a weight file is needed, or one of "
            f"{', '.join(shipped_files())}."
        )
    if not source.is_dir():
        return source, _beside(source), config.of_weights(source)
    weights = source / config.WEIGHTS_FILE
    if not weights.exists():
        is_run = (source / config.CONFIG_FILE).exists()
        raise ValueError(
            f"{source} is no finished run: it holds no {config.WEIGHTS_FILE}."
            + f" train.py --resume --run-dir {source} finishes it." * is_run
        )
    return weights, source, config.of_weights(weights)


def _beside(weights):
    """The directory for what is made of a weight file; of one without ending there is no other."""
    if weights.name == config.WEIGHTS_FILE:
        return weights.parent
    return weights.with_suffix("") if weights.suffix else weights.with_name(f"{weights.name}_files")
