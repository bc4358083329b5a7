"""1-bit kernels that begin as real values: they harden over the first part of a training."""

import larq as lq
import tensorflow as tf


class Relaxation(tf.keras.callbacks.Callback):
    r"""Convolutions' 1-bit kernels harden from real values to signs (after P. Yin et al., 2018).

    In training a kernel w counts as

    .. math:: h\,\mathrm{sign}(w) + (1 - h)\,w / \overline{|w|}

    with the mean of :math:`|w|` over each output channel, so that both parts are of one size. The
    hardness h rises linearly with the steps from 0 to 1; the gradient is that of the sign's
    straight-through estimator throughout. On test images and after training signs alone count:
    early test errors are those of signs that were not trained as such, which is said on standard
    output when training begins.

    Args:
        model: Compiled; its kernels that are not 1-bit stay as they are.
        steps: How many of the optimizer's until h is 1.
    """

    def __init__(self, model, steps):
        super().__init__()
        self.steps = steps
        self.hardness = tf.Variable(1.0, trainable=False)
        self.layers = [
            layer
            for layer in model.layers
            if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer
        ]
        for layer in self.layers:
            layer.kernel.quantizer = self._relaxed(layer.kernel_quantizer)

    def _relaxed(self, quantizer):
        def relaxed(kernel):
            signs = quantizer(kernel)
            size = tf.reduce_mean(tf.abs(kernel), axis=[0, 1, 2], keepdims=True)
            softness = tf.cast(1.0 - self.hardness, kernel.dtype)
            return signs + tf.stop_gradient(softness * (kernel / size - signs))

        return relaxed

    def on_train_begin(self, logs=None):
        if self.layers and int(self.model.optimizer.iterations) < self.steps:
            print(
                f"kernels harden until epoch {self.steps / self.params['steps']:.3g}: tests before "
                f"that see signs that were not trained as such"
            )

    def on_train_batch_begin(self, batch, logs=None):
        self.hardness.assign(min(1.0, int(self.model.optimizer.iterations) / self.steps))

    def on_test_begin(self, logs=None):
        self.hardness.assign(1.0)
