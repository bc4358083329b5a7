"""What each ``precision`` means for the layers: quantizers, constraint and padding."""

import contextlib
import dataclasses
import numbers

import larq as lq

import tensorflow as tf


@contextlib.contextmanager
def layers_in(dtype):
    """Layers that are made meanwhile compute in a dtype; their weights stay float32."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(dtype if dtype == "float32" else f"mixed_{dtype}")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


@lq.utils.register_alias("scaled_sign")
@lq.utils.register_keras_custom_object  # as larq's own: its layers look quantizers up by class name
class ScaledSign(lq.quantizers.SteSign):
    r"""1-bit quantizer with one fixed scale for the whole kernel.

    Forward, with :math:`n` the fan-in, i.e. the product of all axes but the last:

    .. math:: q(w) = s \cdot \mathrm{sign}(w), \qquad s = \texttt{scale} \text{ or } n^{-1/2}

    with sign(0) = +1. The pseudo-gradient is larq's straight-through estimator times s.

    A sum of n terms of +-1 grows with n; with ``scale="fan_in"`` its variance does not, which is
    what keeps the gates of a 1-bit squeeze-and-excitation away from saturation.

    Args:
        scale: ``"fan_in"`` for n^-1/2, or a positive number.
        clip_value: Latent weights beyond +-clip_value get no gradient; None switches that off.

    Raises:
        ValueError: If `scale` is neither "fan_in" nor a positive number.
    """

    def __init__(self, scale="fan_in", clip_value=1.0, **kwargs):
        number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
        if scale != "fan_in" and not (number and scale > 0):
            raise ValueError(f"`scale` must be 'fan_in' or a positive number, received {scale!r}.")
        super().__init__(clip_value=clip_value, **kwargs)
        self.scale = scale if scale == "fan_in" else float(scale)

    def call(self, inputs):
        scale = self.scale
        if scale == "fan_in":
            scale = inputs.shape[:-1].num_elements() ** -0.5
        return super().call(inputs) * tf.cast(scale, inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


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
