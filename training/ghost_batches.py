"""A step's images in several parts that are computed side by side."""

import tensorflow as tf

from larq_seresnet.seresnet import SEResNet


class GhostBatches(SEResNet):
    """An `SEResNet` that computes the parts of a batch side by side, the same weights for each.

    In training BatchNorm normalises every part by its own statistics (E. Hoffer et al., "Train
    longer, generalize better", 2017) and its moving averages take one after the other; loss and
    gradients are those of the whole batch. An operator on a few small images keeps one core busy,
    hardly two: with a part for each core all of them work.

    Args:
        model: From `SEResNet14`; shares its layers.
        parts: How many. Where a batch is no multiple of it, the last part looks at images of the
            one before too, so that all are of one size.
    """

    def __init__(self, model, parts):
        super().__init__(model.inputs, model.outputs[0], name=model.name)
        self.configuration = model.configuration
        self.parts = parts

    def call(self, inputs, training=None, mask=None):
        count = tf.shape(inputs)[0]
        size = (count + self.parts - 1) // self.parts
        outputs = []
        for part in range(self.parts):
            first = tf.minimum(part * size, count - size)
            of_part = super().call(inputs[first : first + size], training, mask)
            outputs.append(of_part[part * size - first :])
        return tf.concat(outputs, axis=0)
