"""What each ``precision`` means for the layers: quantizers, constraint and padding."""

import contextlib
import dataclasses
import numbers

import larq as lq

import tensorflow as tf


@contextlib.contextmanager
def _quantized_scope(quantize):
    """larq's own, which is left where a layer raises, too.

    It stayed on, and then every optimizer stored signs in place of latent weights.
    """
    before = lq.context.should_quantize()
    lq.context._quantized_scope.should_quantize = quantize
    try:
        yield quantize
    finally:
        lq.context._quantized_scope.should_quantize = before


lq.context.quantized_scope = _quantized_scope


@contextlib.contextmanager
def layers_in(dtype):
    """Within it, layers are made to compute in a dtype; their weights stay float32."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(dtype if dtype == "float32" else f"mixed_{dtype}")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _check_scale(scale):
    number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
    if scale != "fan_in" and not (number and scale > 0):
        raise ValueError(f"`scale` must be 'fan_in' or a positive number, received {scale!r}.")
    return scale if scale == "fan_in" else float(scale)


def _factor(scale, kernel):
    return kernel.shape[:-1].num_elements() ** -0.5 if scale == "fan_in" else scale


@lq.utils.register_alias("scaled_sign")
@lq.utils.register_keras_custom_object  # as larq's own: its layers look quantizers up by class name
class ScaledSign(lq.quantizers.SteSign):
    r"""1-bit quantizer with one fixed scale for the whole kernel.

    Forward, with :math:`n` the fan-in, i.e. the product of all axes but the last:

    .. math:: q(w) = s \cdot \mathrm{sign}(w), \qquad s = \texttt{scale} \text{ or } n^{-1/2}

    with sign(0) = +1. The pseudo-gradient is larq's straight-through estimator times s.

    The variance of a sum of n terms of +-1 grows with n. With ``scale="fan_in"`` it does not, which
    keeps the gates of a 1-bit squeeze-and-excitation from saturating.

    Args:
        scale: ``"fan_in"`` for n^-1/2, or a positive number.
        clip_value: Latent weights beyond +-clip_value get no gradient; None turns this off.

    Raises:
        ValueError: If `scale` is neither "fan_in" nor a positive number.
    """

    def __init__(self, scale="fan_in", clip_value=1.0, **kwargs):
        super().__init__(clip_value=clip_value, **kwargs)
        self.scale = _check_scale(scale)

    def call(self, inputs):
        return super().call(inputs) * tf.cast(_factor(self.scale, inputs), inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class _Levels(lq.quantizers.Quantizer):
    """Integer kernels: the weights of each output channel in proportion to its largest.

    The largest becomes `top` or -`top`. A kernel's values are these integers times
    UNIT / top * scale; the pseudo-gradient is that of the identity times `scale`. Quantizing twice
    is the same as once.

    Args:
        scale: ``"fan_in"`` for n^-1/2 with n the fan-in, or a positive number.

    Raises:
        ValueError: If `scale` is neither.
    """

    #: About the ratio of a channel's largest weight to its mean magnitude, so that kernels keep
    #: their size while they harden (`training.relaxation`).
    UNIT = 2.5
    top: int
    #: The ratio to the largest that is taken for the weights of a channel that are all 0.
    of_zeros = 0.0

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = _check_scale(scale)

    def levels(self, kernel):
        """The integers of a kernel, in its dtype and shape."""
        axes = range(kernel.shape.rank - 1)
        largest = tf.reduce_max(tf.abs(kernel), axis=axes, keepdims=True)
        of_zeros = tf.cast(self.of_zeros, kernel.dtype)
        return self._rounded(
            tf.where(largest > 0, tf.math.divide_no_nan(kernel, largest), of_zeros)
        )

    def call(self, inputs):
        factor = _factor(self.scale, inputs)

        @tf.custom_gradient
        def quantize(kernel):
            values = self.levels(kernel) * tf.cast(self.UNIT / self.top * factor, kernel.dtype)
            return values, lambda upstream: upstream * tf.cast(factor, upstream.dtype)

        return quantize(inputs)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@lq.utils.register_keras_custom_object
class SumOfSigns(_Levels):
    r"""The sum of three 1-bit kernels with the fixed scales 4, 2 and 1: 3 bits a weight.

    That is :math:`4 b_1 + 2 b_2 + b_3` with each b one of +-1, so the odd numbers from -7 to 7, of
    which the one nearest to :math:`7 w / \max |w|` is taken, the maximum over an output channel.
    """

    precision = 3
    top = 7
    of_zeros = 1.0  # 0 is no sum of signs

    def _rounded(self, ratio):
        return 2.0 * tf.floor(self.top / 2 * ratio) + 1.0


@lq.utils.register_keras_custom_object
class EightBit(_Levels):
    r"""8 bits a weight: :math:`\mathrm{round}(127 w / \max |w|)`, an output channel at a time."""

    precision = 8
    top = 127

    def _rounded(self, ratio):
        return tf.round(self.top * ratio)


#: What the stem and the classifier may have in place of one bit, by the argument `ends`.
ENDS = {None: None, "sum3": SumOfSigns, "int8": EightBit}


@dataclasses.dataclass(frozen=True)
class Precision:
    """How the kernels, and the inputs of the residual convolutions, are represented.

    Attributes:
        kernel_quantizer: larq quantizer of the kernels that a BatchNorm follows, None for float32.
        scaled_kernel_quantizer: Likewise where none follows: in the attention and the classifier.
        input_quantizer: larq quantizer of the residual convolutions' inputs, None for float inputs.
        pad_values: What surrounds the residual convolutions' inputs. LCE fuses and chains binary
            convolutions only with one-padding: their inputs know no zero.
    """

    kernel_quantizer: str | None = None
    scaled_kernel_quantizer: str | None = None
    input_quantizer: str | None = None
    pad_values: float = 0.0

    @property
    def kernel_constraint(self) -> str | None:
        """Latent weights stay within +-1, where the straight-through gradient is not zero."""
        return "weight_clip" if self.kernel_quantizer else None


PRECISIONS = {
    "float32": Precision(),
    "w1": Precision("ste_sign", "scaled_sign"),
    "w1a1": Precision("ste_sign", "scaled_sign", input_quantizer="ste_sign", pad_values=1.0),
}
