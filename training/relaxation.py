"""1-bit kernels and inputs that begin as real values and harden over a part of the training."""

import larq as lq

import tensorflow as tf


class Relaxation(tf.keras.callbacks.Callback):
    r"""Convolutions' 1-bit kernels harden from real values to signs (after P. Yin et al., 2018).

    In training a kernel w counts as

    .. math:: h\,\mathrm{sign}(w) + (1 - h)\,w / \overline{|w|}

    with the mean of :math:`|w|` over each output channel, so that both parts are of one size; and
    their 1-bit inputs x as

    .. math:: h\,\mathrm{sign}(x) + (1 - h)\,\mathrm{clip}(x, -1, 1)

    The hardness h rises linearly with the steps from 0 to 1; the gradient is that of the sign's
    straight-through estimator throughout. On test images and after training signs alone count.

    Args:
        model: Compiled; kernels and inputs that have no quantizer stay as they are. Where that of
            a kernel is another (`ends`), its values take the place of the signs.
        steps: How many of the optimizer's until h is 1.
        inputs: Whether inputs harden too; otherwise they are signs from the first step.
    """

    def __init__(self, model, steps, inputs=True):
        super().__init__()
        self.steps = steps
        self.hardness = tf.Variable(1.0, trainable=False)
        self.layers = [
            layer
            for layer in model.layers
            if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer
        ]
        for layer in self.layers:
            layer.kernel.quantizer = self._relaxed(layer.kernel_quantizer, _of_mean_size)
            if inputs and layer.input_quantizer:
                # its call, for the quantizer itself is part of the layer's config
                layer.input_quantizer.call = self._relaxed(layer.input_quantizer.call, _clipped)

    def _relaxed(self, quantizer, real):
        """A quantizer whose values are those of `real` where nothing has hardened yet."""

        def relaxed(values):
            signs = quantizer(values)
            softness = tf.cast(1.0 - self.hardness, values.dtype)
            return signs + tf.stop_gradient(softness * (real(values) - signs))

        return relaxed

    def on_epoch_begin(self, epoch, logs=None):
        self.on_train_batch_begin(0)  # for what looks at the network before the first batch

    def on_train_batch_begin(self, batch, logs=None):
        self.begin_step(self.model.optimizer.iterations)

    def begin_step(self, done):
        """Sets the hardness as it is after so many steps of the optimizer."""
        self.hardness.assign(tf.minimum(1.0, tf.cast(done, tf.float32) / self.steps))

    def on_test_begin(self, logs=None):
        self.hardness.assign(1.0)


def _of_mean_size(kernel):
    return kernel / tf.reduce_mean(tf.abs(kernel), axis=[0, 1, 2], keepdims=True)


def _clipped(inputs):
    return tf.clip_by_value(inputs, -1.0, 1.0)
