"""What BatchNorm's statistics do to the error of weights that ship, by how they are estimated.

    python training/study/batch_norm_draws.py [--precision w1a1] [--draws 5]

Each way is tried with several draws of training images; a mean and a spread over draws tell what
is due to the way, and what to chance.
"""

import argparse

import numpy as np

from larq_seresnet import SEResNet14, files, preprocess_input, programs
from larq_seresnet.training import batch_norm, config, data

import tensorflow as tf

#: Of the weights that ship.
DATASET = "cifar10"
#: As for them, in pixels.
CROP = 4
MOVING_BATCHES = 60  # at a momentum of 0.9 nothing is left of what was there before
COUNTS = (1_000, batch_norm.IMAGES, batch_norm.LAST_IMAGES)


def main(argv=None):
    """Prints a table of errors; returns them by way."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--precision", default="w1a1", help="of the weights (default: w1a1)")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--limit-test", type=int, metavar="N", help="default all")
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if arguments.draws < 2:
            raise ValueError(f"--draws must be at least 2, received {arguments.draws}.")
        model = SEResNet14(precision=arguments.precision)
        images = data.load(DATASET, limit_test=arguments.limit_test)
    with programs.failing(parser):
        found = errors(model, images, arguments.draws)
    print(f"{model.name}, {len(images.test[0]):,} test images of {images.name}, float32\n")
    print(
        files.table(
            ("statistics", "error", "spread", "draws"),
            [
                (way, f"{np.mean(each):.2%}", f"{np.std(each, ddof=1):.2%}", _listed(each))
                for way, each in found.items()
            ],
        )
    )
    return found


def _listed(errors):
    return ", ".join(f"{error:.2%}" for error in errors)


def move(model, images, batch_size):
    """Moves BatchNorm's averages as training would: over batches of images, uint8, (N, H, W, 3)."""
    for batch in np.array_split(images, -(-len(images) // batch_size)):
        model(preprocess_input(batch), training=True)


def errors(model, images, draws):
    """By way of estimating BatchNorm's statistics, the test error of each draw of images.

    Args:
        model: From `SEResNet14`, trained; it ends with the statistics of the last draw.
        images: A `data.ImageSet`.
        draws: How many.
    """
    recipe = config.RECIPES["fast"]
    estimator = batch_norm.BatchNormEstimator(images)
    estimator.set_model(model)
    trained = model.get_weights()
    inputs, labels = preprocess_input(images.test[0]), images.test[1]

    def drawn(draw, count):
        order = np.random.default_rng(draw).permutation(len(images.train[0]))
        return images.train[0][order[:count]]

    def augmented(chosen, draw):
        return data.augment(tf.constant(chosen), [0, draw], images.mirror, CROP).numpy()

    def moving_averages(draw):
        count = MOVING_BATCHES * recipe.batch_size
        move(model, augmented(drawn(draw, count), draw), recipe.batch_size)

    ways = {
        f"moving averages over batches of {recipe.batch_size} augmented images": moving_averages,
        f"plain means of {COUNTS[-1]:,} augmented images": lambda draw: estimator.estimate(
            augmented(drawn(draw, COUNTS[-1]), draw)
        ),
        **{
            f"plain means of {count:,} images": lambda draw, count=count: estimator.estimate(
                drawn(draw, count)
            )
            for count in COUNTS
        },
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for way, estimate in ways.items():
        for draw in range(draws):
            model.set_weights(trained)
            estimate(draw)
            classes = model.predict(inputs, batch_size=500, verbose=0).argmax(axis=1)
            found[way].append(float((classes != labels).mean()))
    return found


if __name__ == "__main__":
    main()
