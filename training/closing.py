"""Channel pruning: a sparsity penalty closes gates, whole channels, to a share of the weights."""

import numpy as np

from larq_seresnet.layers import FMB
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import channels, strategies

import tensorflow as tf

#: The term beside the loss of the labels, which is 2.3 at the beginning.
WEIGHT = 3.0
#: Epsilon under the root: its slope stays finite where a channel is closed.
SOFTENED = 1e-3
#: Training images by which channels are chosen, and how many at once.
IMAGES, BATCH_SIZE = 4_000, 250


class Closing(tf.keras.callbacks.Callback):
    r"""In the first half of a training FMB's gates learn to close whole channels; then they settle.

    Channel c costs the :math:`b_c` weights that go with it, and is open for the share
    :math:`q_c` of a batch. To the loss comes

    .. math:: \lambda \sum_c b_c\, r(q_c) \Big/ \sum_c b_c, \quad
        r(q) = \frac{\sqrt{q + \epsilon} - \sqrt\epsilon}{\sqrt{1 + \epsilon} - \sqrt\epsilon}

    while this sum, without :math:`\lambda`, was above a wanted share in the batch before; that
    share falls linearly from 1 to `keep`. The root makes it cheaper to close one channel for all
    images than two channels for half of them; where gates do not depend on the image, the sum is
    the share of the weights that is left.

    When half of the epochs are done, the channels that are open for most images are kept, as many
    as `keep` allows of their weights, at least one channel a module. Their gates are set open and
    all others closed, for every image: the biases of the attention become +-1000. The rest of the
    training is that of the pruned network, which `export/prune.py` takes out of it.

    Args:
        model: With attention "se", and FMB that closes. Before it is first trained.
        settings: The `Config` of the run.
        images: The `data.ImageSet` that is trained on.
        steps: Of an epoch.
    """

    def __init__(self, model, settings, images, steps):
        super().__init__()
        self.settings = settings
        self.images = images.train[0]
        self.epoch_of_settling = settings.epoch_of_settling()
        self.steps = steps * self.epoch_of_settling
        self.modules = modules(model)
        self.costs = [
            np.full(layer.output_shape[-1], cost_of_channel(model, block, settings.gate_at))
            for block, layer in self.modules.items()
        ]
        self.active = tf.Variable(0.0, trainable=False)
        self.kept = [
            tf.Variable(
                0.0,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,  # all have the same
            )
            for _ in self.modules
        ]
        if settings.keep_by == "gates":
            whole = sum(map(np.sum, self.costs))
            for kept, costs, layer in zip(
                self.kept, self.costs, self.modules.values(), strict=True
            ):
                layer.activity_regularizer = self._term(kept, costs / whole)

    def _term(self, kept, shares):
        """What one module adds to the loss; `kept` is set to its part of the sum."""
        shares = tf.constant(shares, tf.float32)

        def term(gates):
            opened = strategies.mean(tf.reduce_mean(gates, axis=[0, 1, 2]))
            part = tf.reduce_sum(shares * root(opened))
            kept.assign(part)
            batch = tf.cast(tf.shape(gates)[0], tf.float32)  # Keras divides by it
            return WEIGHT * self.active * part * batch

        return term

    def on_epoch_begin(self, epoch, logs=None):
        self.begin_epoch()
        if epoch == self.epoch_of_settling:
            self._settle()

    def begin_epoch(self):
        for kept in self.kept:  # a resumed run has seen no batch
            kept.assign(0.0)

    def on_train_batch_begin(self, batch, logs=None):
        self.begin_step(self.model.optimizer.iterations)

    def begin_step(self, done):
        """Whether the term counts in the step after so many of the optimizer."""
        share = tf.cast(done, tf.float32) / self.steps
        wanted = 1 - (1 - self.settings.keep) * share
        above = tf.add_n(list(map(tf.identity, self.kept))) > wanted
        self.active.assign(tf.cast(above & (share < 1), tf.float32))

    def on_test_begin(self, logs=None):
        self.active.assign(0.0)

    def _settle(self):
        chosen = self._chosen()
        for block, keep in zip(self.modules, chosen, strict=True):
            bias = self.model.get_layer(f"{block}_se").expand.bias
            bias.assign(channels.biases(keep))
        kept = " ".join(f"{keep.sum()}/{keep.size}" for keep in chosen)
        print(f"gates settled, kept channels: {kept}", flush=True)

    def _chosen(self):
        """Which channels of each module are kept: bool, (C,) each."""
        if self.settings.keep_by == "random":
            ranks = channels.ranks_of_chance(self.settings.seed, sum(map(len, self.costs)))
        else:
            ranks = channels.ranks_of_gates(*self._opened())
        return channels.chosen(self.costs, self.settings.keep, ranks)

    def _opened(self):
        """The share of training images for which each channel is open, and its mean attention.

        Of the network as it is trained at this moment, with the statistics of each batch.
        """
        means_of_batch = self.means_of_batch()
        count = min(IMAGES, len(self.images))
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.images))[:count]
        batches = np.array_split(np.sort(chosen), -(-count // BATCH_SIZE))
        traced = strategies.traced(means_of_batch, self.model.input_shape)
        found = [traced(preprocess_input(self.images[batch])) for batch in batches]
        means = [np.mean(each, axis=0) for each in zip(*found, strict=True)]
        half = len(self.modules)
        return np.concatenate(means[:half]), np.concatenate(means[half:])

    def means_of_batch(self):
        """A function of a batch: the means of all modules' gates, then of their attention."""
        names = [f"{block}_{end}" for end in ("fmb", "se") for block in self.modules]
        probe = tf.keras.Model(
            self.model.input, [self.model.get_layer(name).output for name in names]
        )

        def means(inputs):
            found = probe(inputs, training=True)
            return [strategies.mean(tf.reduce_mean(each, axis=[0, 1, 2])) for each in found]

        return means


def root(opened):
    """The root of shares that channels are open for, 0 of 0 and 1 of 1, not quite vertical at 0."""
    bottom, top = SOFTENED**0.5, (1 + SOFTENED) ** 0.5
    return (tf.sqrt(opened + SOFTENED) - bottom) / (top - bottom)


def modules(model):
    """By block, the FMB layers of a network whose gates are those of channels."""
    return {
        layer.name.removesuffix("_fmb"): layer for layer in model.layers if isinstance(layer, FMB)
    }


def cost_of_channel(model, block, gate_at):
    """How many weights of convolutions go with one gated channel of a block."""
    first, second = (model.get_layer(f"{block}_{i}_conv").kernel.shape for i in (1, 2))
    if gate_at == "end":
        return second[:-1].num_elements()
    return first[:-1].num_elements() + second.num_elements() // second[2]
