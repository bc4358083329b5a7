"""What every command here begins with: trained weights, and the images to prove them on."""

import pathlib

from larq_seresnet import SEResNet14
from larq_seresnet.training import config, data
from larq_seresnet.weights import read_configuration


def add_arguments(parser, **options):
    """Gives a parser the arguments that `load` reads; `options` go to that of the source."""
    parser.add_argument(
        "source",
        type=pathlib.Path,
        metavar="RUN_DIR|WEIGHTS",
        help="what train.py wrote",
        **options,
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose test images to prove it on; default: as in training",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps data sets")
    parser.add_argument(
        "--limit-test", type=int, metavar="N", help="use this many test images, default all"
    )


def load(arguments, source=None, limit_train=1):
    """The model of a weight file, and its data set.

    Args:
        arguments: What a parser made of `add_arguments`.
        source: Which source, where there may be several; None for the one there is.
        limit_train: How many training images to load; None for all.

    Returns:
        A float32 `SEResNet14`, a `data.ImageSet`, and the path of the weight file.

    Raises:
        ValueError, OSError, data.DataUnavailable: If there are no weights, none of a classifier, or
            no data that fit them.
    """
    weights, data_dir = _weights(source or arguments.source)
    configuration, trained_on = read_configuration(weights)
    if not configuration["include_top"]:
        raise ValueError(f"{weights} must have a classifier, received include_top=False.")
    if not (arguments.dataset or trained_on):
        raise ValueError(f"--dataset is needed: {weights} does not say what it was trained on.")
    model = SEResNet14(**configuration, weights=weights)
    images = data.load(
        arguments.dataset or trained_on,
        arguments.data_dir or data_dir,
        configuration["input_shape"][:2],
        limit_train=limit_train,
        limit_test=arguments.limit_test,
    )
    if len(images.class_names) != configuration["num_classes"]:
        raise ValueError(
            f"`dataset` must have {configuration['num_classes']} classes, as the model has, "
            f"received {images.name} with {len(images.class_names)}."
        )
    return model, images, weights


def _weights(source):
    """The weight file, and where its run found its data."""
    if not source.is_dir():
        return source, None
    weights = source / config.WEIGHTS_FILE
    if not weights.exists():
        raise ValueError(
            f"{source} is no finished run: it holds no {config.WEIGHTS_FILE}. "
            f"train.py --resume --run-dir {source} finishes one."
        )
    return weights, config.load(source)[0].data_dir
