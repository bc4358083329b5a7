"""From CIFAR-10 to other classes: the weights that ship go on learning.

The classifier begins anew, but for a set of ten classes, which begins with that of CIFAR-10.

    python examples/fine_tune.py svhn_cropped
    python examples/fine_tune.py path/to/class/folders --epochs 10

Writes fine_tuned.npz, some 34 kB, for `SEResNet14(num_classes=..., weights="fine_tuned.npz")` and
`export/convert.py fine_tuned.npz`. `larq_seresnet.weights.read` gives its class names, for
`decode_predictions`.
"""

import argparse

from larq_seresnet import SEResNet14, programs, save_weights
from larq_seresnet.training import data

import tensorflow as tf  # after larq_seresnet, which switches on what makes it faster

parser = argparse.ArgumentParser(prog="fine_tune.py")
parser.add_argument("dataset", help="a TFDS name, a folder of class folders, or digits")
parser.add_argument("--epochs", type=int, default=3)
arguments = parser.parse_args()

with programs.refusing_bad_input(parser):
    if arguments.epochs < 1:
        raise ValueError(f"`epochs` must be positive, received {arguments.epochs}.")
    images = data.load(arguments.dataset)
    model = SEResNet14(num_classes=len(images.class_names))
    steps = -(-len(images.train[0]) // 64)
    rate = tf.keras.optimizers.schedules.PolynomialDecay(0.01, steps * arguments.epochs, 0.0)
    model.compile(
        tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    augmented = data.training_batches(
        images, 64, seed=0, epochs=arguments.epochs, flip=images.mirror, crop=4
    )
    model.fit(
        augmented,
        steps_per_epoch=steps,
        epochs=arguments.epochs,
        validation_data=data.test_batches(images),
        verbose=2,
    )
    save_weights(model, "fine_tuned.npz", images.name, images.class_names, packed=True)
