"""BatchNorm's statistics for the network as it is deployed."""

import numpy as np

from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import strategies

import tensorflow as tf

#: Training images before a test, and before the last one, whose statistics are saved.
IMAGES, LAST_IMAGES = 4_000, 20_000
BATCH_SIZE = 250
#: Which images: the same ones for every run on a data set.
CHOICE_SEED = 0


class BatchNormEstimator(tf.keras.callbacks.Callback):
    r"""Before every test, estimates BatchNorm's means and variances anew for the current weights.

    What Keras gathers in training are moving averages over augmented images and over weights that
    still move and, in recipe `fast`, harden. Here they are plain means

    .. math:: \mu = \frac{1}{B} \sum_b \mu_b, \qquad \sigma^2 = \frac{1}{B} \sum_b \sigma_b^2

    over B batches of training images, not augmented, that pass through the network of bits. They
    stay in the layers, so that what is tested, recorded and saved after an epoch is one network.
    Training goes on as if nothing had happened, for there BatchNorm takes those of each batch.

    Args:
        images: The `data.ImageSet` that is trained on.
        last: The epoch, counted from 1, before whose test more images are taken, since its weights
            are what is saved; None for a training that has no last one.
    """

    def __init__(self, images, last=None):
        super().__init__()
        self.images = images.train[0]
        self.order = np.random.default_rng(CHOICE_SEED).permutation(len(self.images))
        self.last = last

    def set_model(self, model):
        super().set_model(model)
        moved = [
            (statistic, layer.momentum)
            for layer in model.layers
            if isinstance(layer, tf.keras.layers.BatchNormalization)
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]

        def of_batch(inputs):
            for statistic, _ in moved:
                statistic.assign(tf.zeros_like(statistic))
            model(inputs, training=True)  # moves them from zero by 1 - momentum
            return [strategies.mean(statistic / (1.0 - momentum)) for statistic, momentum in moved]

        self.statistics = [statistic for statistic, _ in moved]
        self.of_batch = strategies.traced(of_batch, model.input_shape)

    def on_epoch_begin(self, epoch, logs=None):
        self.count = LAST_IMAGES if epoch + 1 == self.last else IMAGES

    def on_test_begin(self, logs=None):
        self.estimate(self.images, self.order[: self.count])

    def estimate(self, images, chosen=None):
        """Sets the statistics to those of the chosen of some images, uint8 (N, H, W, 3)."""
        chosen = np.arange(len(images)) if chosen is None else chosen
        batches = np.array_split(chosen, -(-len(chosen) // BATCH_SIZE))
        found = [self.of_batch(preprocess_input(images[batch])) for batch in batches]
        for statistic, values in zip(self.statistics, zip(*found, strict=True), strict=True):
            statistic.assign(tf.reduce_mean(values, axis=0))
