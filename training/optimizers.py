"""How weights move: Muon for the kernels of convolutions, Adam for the rest; at which rate."""

import tensorflow as tf

#: A quintic whose iterates push all singular values of a matrix towards 1 (K. Jordan, 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 4


def build(settings, steps):
    """The optimizer of a `Config` for so many steps in all."""
    one_cycle = settings.schedule == "one_cycle"
    rate = OneCycle(settings.learning_rate, steps) if one_cycle else settings.learning_rate
    if settings.kernel_rate:
        return Muon(rate, kernel_ratio=settings.kernel_rate / settings.learning_rate)
    return tf.keras.optimizers.Adam(rate)


@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class OneCycle(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linearly up to `peak` over the first `warmup` of the steps, then linearly to 0."""

    def __init__(self, peak, steps, warmup=0.2):
        self.peak = peak
        self.steps = steps
        self.warmup = warmup

    def __call__(self, step):
        done = (tf.cast(step, tf.float32) + 0.5) / self.steps
        return self.peak * tf.maximum(
            0.0, tf.minimum(done / self.warmup, (1.0 - done) / (1.0 - self.warmup))
        )

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class Muon(tf.keras.optimizers.Adam):
    r"""Muon (K. Jordan et al., 2024) for the kernels of convolutions, Adam for everything else.

    The kernel of a convolution, as a matrix of shape :math:`(n, C_{out})` with fan-in :math:`n`,
    moves by the orthogonal factor of its Nesterov momentum:

    .. math::
        B \leftarrow \mu B + G, \qquad
        W \leftarrow W - \eta_k \sqrt{\max(n, C_{out}) / n}\;\mathrm{orth}(G + \mu B)

    so that the root mean square of a step is about :math:`\eta_k n^{-1/2}`: a 1-bit kernel counts
    by its signs alone, so what matters is a step's size beside that of the latent weights, which
    begin near :math:`n^{-1/2}`. Directions of the kernel move much alike, even where their part of
    the gradient is small; with Adam the few strongest turn most of the signs.

    Args:
        learning_rate: Of Adam: a number or a schedule.
        kernel_ratio: eta_k, as a multiple of the learning rate.
        momentum: mu.
        kwargs: Of `tf.keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate=0.01, kernel_ratio=10.0, momentum=0.9, name="Muon", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        self.kernel_ratio = kernel_ratio
        self.momentum = momentum

    def update_step(self, gradient, variable):
        if variable.shape.rank != 4:
            super().update_step(gradient, variable)
            return
        momentum = self._momentums[self._index_dict[self._var_key(variable)]]
        momentum.assign(self.momentum * momentum + gradient)
        fan_in, channels = variable.shape[:-1].num_elements(), variable.shape[-1]
        direction = orthogonalize(
            tf.reshape(gradient + self.momentum * momentum, [fan_in, channels])
        )
        rate = self.kernel_ratio * tf.cast(self.learning_rate, variable.dtype)
        size = (max(fan_in, channels) / fan_in) ** 0.5
        variable.assign_sub(rate * size * tf.reshape(direction, variable.shape))

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_ratio": self.kernel_ratio,
            "momentum": self.momentum,
        }


def orthogonalize(matrix):
    """About U V^T of a matrix U S V^T, by Newton-Schulz iterations.

    Args:
        matrix: float, (N, M).

    Returns:
        The same shape. Singular values from a tenth of the matrix's norm on come to lie between 0.5
        and 1.3; smaller ones grow some hundredfold, and those near 0 stay below.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    x = tf.transpose(matrix) if wide else matrix
    x /= tf.norm(x) + 1e-7
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = tf.matmul(x, x, transpose_a=True)
        x = a * x + tf.matmul(x, b * gram + c * tf.matmul(gram, gram))
    return tf.transpose(x) if wide else x
