"""The layers of the paper: squeeze-and-excitation and Feature Map Binarization, Eq. 1-6.

And the next step that it announces: spatial attention, binarised in the same way.
"""

import dataclasses
import functools

import larq as lq

from larq_seresnet.arguments import are_ascending, check_choice, is_count

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Gate:
    """What FMB makes of an attention value: 1 from `threshold` on, `closed` below."""

    closed: float
    threshold: float


#: By activation, Eq. 5 and 6. The hard ones are piecewise linear; with "hard_tanh" the authors go
#: on (Wu and Yamauchi, IJML 15(1), 2025).
GATE_ACTIVATIONS = {
    "sigmoid": Gate(0.0, 0.5),
    "tanh": Gate(-1.0, 0.0),
    "hard_sigmoid": Gate(0.0, 0.5),
    "hard_tanh": Gate(-1.0, 0.0),
}
FMB_GRADIENTS = ("straight_through", "none")


@lq.utils.register_keras_custom_object  # HDF5 files name classes without their package
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class FMB(tf.keras.layers.Layer):
    r"""Channel Feature Map Binarization: attention values to two-valued gates, Eq. 5 and 6.

    .. math::
        M'_c = \begin{cases} 1 & M_c \geq 0.5 \\ 0 & \text{else} \end{cases} \text{ (sigmoid)}
        \qquad
        M'_c = \begin{cases} 1 & M_c \geq 0 \\ -1 & \text{else} \end{cases} \text{ (tanh)}

    and likewise for hard_sigmoid and hard_tanh, both in training and in inference. NaN stays NaN,
    so that a diverged run is noticed.

    The paper does not state the gradient. ``torch.where``, which it names, passes none, so that the
    attention's own weights keep their initial values. Hence both readings.

    Args:
        activation: One of `GATE_ACTIVATIONS`: the one that produced the input.
        gradient: "straight_through" passes the gradient of M'_c to M_c unchanged, "none" stops it.

    Input and output: M_c and M'_c, of any shape; in SEResNet14 (N, 1, 1, C), and (N, H, W, 1)
    after `SpatialAttention`.

    Raises:
        ValueError: If `activation` or `gradient` is none of the above.
    """

    def __init__(self, activation="sigmoid", gradient="straight_through", **kwargs):
        check_choice("activation", activation, GATE_ACTIVATIONS)
        check_choice("gradient", gradient, FMB_GRADIENTS)
        super().__init__(**kwargs)
        self.activation = activation
        self.gradient = gradient

    def call(self, inputs):
        @tf.custom_gradient
        def binarize(attention):
            gate = GATE_ACTIVATIONS[self.activation]
            half = (1.0 - gate.closed) / 2
            gates = half * lq.math.sign(attention - gate.threshold) + (1.0 - half)
            return gates, lambda upstream: upstream

        gates = binarize(inputs)
        return tf.stop_gradient(gates) if self.gradient == "none" else gates

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "activation": self.activation, "gradient": self.gradient}


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class RepeatChannels(tf.keras.layers.Layer):
    """Repeats channels in order until there are enough, and drops those in excess.

    Args:
        channels: Number of output channels.

    Input: (N, H, W, C). Output: (N, H, W, channels).
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs):
        whole, rest = divmod(self.channels, inputs.shape[-1])
        parts = [inputs] * whole + ([inputs[..., :rest]] if rest else [])
        return tf.concat(parts, axis=-1) if len(parts) > 1 else parts[0]

    def compute_output_shape(self, input_shape):
        return tf.TensorShape([*input_shape[:-1], self.channels])

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class PlaceChannels(tf.keras.layers.Layer):
    """Places channels among others that are 0.

    A pruned branch computes some of its block's channels; this puts them where they belong.

    Args:
        channels: Number of output channels.
        places: The output channel of each input channel, ascending.

    Input: (N, H, W, len(places)). Output: (N, H, W, channels).

    Raises:
        ValueError: If `places` are not ascending numbers from 0 to `channels` - 1, or the input
            does not have as many channels as there are places.
    """

    def __init__(self, channels, places, **kwargs):
        if not is_count(channels):
            raise ValueError(f"`channels` must be a positive integer, received {channels!r}.")
        if not are_ascending(places, channels):
            raise ValueError(
                f"`places` must be some of the numbers from 0 to {channels - 1}, in ascending "
                f"order, received {places!r}."
            )
        super().__init__(**kwargs)
        self.channels = channels
        self.places = [int(place) for place in places]

    def build(self, input_shape):
        if input_shape[-1] != len(self.places):
            raise ValueError(
                f"`places` must be as many as the input has channels, {input_shape[-1]}, "
                f"received {len(self.places)}."
            )
        super().build(input_shape)

    def call(self, inputs):
        sources = [len(self.places)] * self.channels
        for source, place in enumerate(self.places):
            sources[place] = source
        with_zeros = tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, 1]])
        return tf.gather(with_zeros, sources, axis=-1)

    def compute_output_shape(self, input_shape):
        return tf.TensorShape([*input_shape[:-1], self.channels])

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "places": self.places}


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class Shift(tf.keras.layers.Layer):
    """x + b, with a trainable b per channel, initially 0: a threshold for the sign that follows.

    After Z. Liu et al., "ReActNet", ECCV 2020. Input and output: (N, H, W, C).
    """

    def build(self, input_shape):
        self.shift = self.add_weight("shift", [input_shape[-1]], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        return inputs + self.shift


class FrozenParts:
    """What has parts that may be frozen by themselves, and stay so in a SavedModel.

    Keras makes a layer or model with the configuration that a SavedModel has, which says what of it
    is trainable, and would then make all parts trainable where the whole is.
    """

    @property
    def _trackable_saved_model_saver(self):
        saver = super()._trackable_saved_model_saver
        saver.__class__ = _saver_of_configuration(type(saver))
        return saver


@functools.cache
def _saver_of_configuration(saver):
    class Saver(saver):
        @property
        def python_properties(self):
            found = super().python_properties
            return found | {"trainable": None if found["trainable"] else False}

    return Saver


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class SqueezeExcite(FrozenParts, tf.keras.layers.Layer):
    r"""The channel attention of the paper, Eq. 1-4: one value per channel.

    .. math:: M_c = \mathrm{act}(W_1\, \mathrm{relu}(W_0\, \mathrm{avgpool}(F)) + b)

    with W_0 of shape (C, C/r) and W_1 of shape (C/r, C). The caller multiplies: F' = M_c * F, or
    with :class:`FMB` in between, F' = M'_c * F (Eq. 7).

    The paper has neither scale nor bias: ``kernel_quantizer="ste_sign", gate_bias=None``. With bare
    +-1 weights the argument of `activation` grows with C, and the gates are saturated from the
    first step on; with "scaled_sign" (:class:`~larq_seresnet.precision.ScaledSign`) its variance
    does not depend on C.

    Args:
        activation: One of `GATE_ACTIVATIONS`.
        reduction_ratio: r; must divide C, unless `squeezed` is given.
        kernel_quantizer: Larq quantizer of W_0 and W_1, which also sets their scale: "scaled_sign",
            "ste_sign", "magnitude_aware_sign" or an instance; None for float weights.
        kernel_constraint: Constraint of W_0 and W_1, such as "weight_clip".
        gate_bias: Initial value of b; gates start open if it is above 0. None for no bias.
        frozen: Names of the parts that are not trainable: "reduce" (W_0), "expand" (W_1 and b), as
            after ``layer.reduce.trainable = False``.
        squeezed: Number of units between W_0 and W_1, by default C/r.

    Input: F, (N, H, W, C). Output: M_c, (N, 1, 1, C).

    Raises:
        ValueError: If an argument is none of the above, or r does not divide C.
    """

    def __init__(
        self,
        activation="sigmoid",
        reduction_ratio=1,
        kernel_quantizer=None,
        kernel_constraint=None,
        gate_bias=1.0,
        frozen=(),
        squeezed=None,
        **kwargs,
    ):
        check_choice("activation", activation, GATE_ACTIVATIONS)
        if not is_count(reduction_ratio):
            raise ValueError(
                f"`reduction_ratio` must be a positive integer, received {reduction_ratio!r}."
            )
        if squeezed is not None and not is_count(squeezed):
            raise ValueError(
                f"`squeezed` must be None or a positive integer, received {squeezed!r}."
            )
        for part in frozen:
            check_choice("frozen", part, ("reduce", "expand"))
        super().__init__(**kwargs)
        self.activation = activation
        self.reduction_ratio = int(reduction_ratio)
        self.kernel_quantizer = _in_policy(kernel_quantizer, self._dtype_policy)
        self.kernel_constraint = tf.keras.constraints.get(kernel_constraint)
        self.gate_bias = gate_bias
        self.squeezed = squeezed
        self._frozen = list(frozen)

    def _dense(self, units, name, **kwargs):
        return lq.layers.QuantDense(
            units,
            kernel_quantizer=self.kernel_quantizer,
            kernel_constraint=self.kernel_constraint,
            name=name,
            trainable=name not in self._frozen,
            dtype=self._dtype_policy,
            **kwargs,
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.reduction_ratio and not self.squeezed:
            raise ValueError(
                f"`reduction_ratio` must divide the number of channels, {channels}, "
                f"received {self.reduction_ratio}."
            )
        squeezed = self.squeezed or channels // self.reduction_ratio
        self.reduce = self._dense(squeezed, "reduce", activation="relu", use_bias=False)
        self.expand = self._dense(
            channels,
            "expand",
            activation=self.activation,
            use_bias=self.gate_bias is not None,
            bias_initializer=tf.keras.initializers.Constant(self.gate_bias or 0.0),
        )
        for dense, units in ((self.reduce, channels), (self.expand, squeezed)):
            with tf.name_scope(dense.name):  # HDF5 files need a name of its own for each weight
                dense.build((None, units))
        super().build(input_shape)

    @property
    def weights(self):
        """In one order, whatever is frozen: Keras's own copying goes by position."""
        return [*self.reduce.weights, *self.expand.weights] if self.built else super().weights

    def call(self, inputs):
        attention = self.expand(self.reduce(tf.reduce_mean(inputs, axis=[1, 2])))
        return tf.reshape(attention, [-1, 1, 1, inputs.shape[-1]])

    def compute_output_shape(self, input_shape):
        return tf.TensorShape([input_shape[0], 1, 1, input_shape[-1]])

    def get_config(self):
        frozen = list(self._frozen)
        if self.built:
            frozen = [part.name for part in (self.reduce, self.expand) if not part.trainable]
        return {
            **super().get_config(),
            "activation": self.activation,
            "reduction_ratio": self.reduction_ratio,
            "kernel_quantizer": lq.quantizers.serialize(self.kernel_quantizer),
            "kernel_constraint": tf.keras.constraints.serialize(self.kernel_constraint),
            "gate_bias": self.gate_bias,
            "squeezed": self.squeezed,
            # Keras's HDF5 goes by position, in an order that depends on it
            "frozen": frozen,
        }


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class SpatialAttention(tf.keras.layers.Layer):
    r"""The spatial attention of CBAM: one value per position.

    .. math:: M_s = \mathrm{act}(w * [\mathrm{mean}_c(F); \max_c(F)] + b)

    with one kernel w of shape (k, k, 2, 1) and zero padding. The caller multiplies:
    F' = M_s * F, or with :class:`FMB` in between, F' = M'_s * F. After Woo et al., "CBAM", ECCV
    2018, which has neither 1-bit weights nor FMB; the paper announces both and leaves the rest
    open.

    Args:
        activation: One of `GATE_ACTIVATIONS`.
        kernel_size: k, odd.
        kernel_quantizer: Larq quantizer of w, as in `SqueezeExcite`; None for float weights.
        kernel_constraint: Constraint of w, such as "weight_clip".
        gate_bias: Initial value of b; gates start open if it is above 0. None for no bias.
        frozen: ("conv",) if w and b are not trainable, as after ``layer.conv.trainable = False``.

    Input: F, (N, H, W, C). Output: M_s, (N, H, W, 1).

    Raises:
        ValueError: If `activation`, `kernel_size` or `frozen` is none of the above.
    """

    def __init__(
        self,
        activation="sigmoid",
        kernel_size=7,
        kernel_quantizer=None,
        kernel_constraint=None,
        gate_bias=1.0,
        frozen=(),
        **kwargs,
    ):
        check_choice("activation", activation, GATE_ACTIVATIONS)
        for part in frozen:
            check_choice("frozen", part, ("conv",))
        if not is_count(kernel_size) or kernel_size % 2 == 0:
            raise ValueError(
                f"`kernel_size` must be a positive odd integer, received {kernel_size!r}."
            )
        super().__init__(**kwargs)
        self.activation = activation
        self.gate_bias = gate_bias
        self.conv = lq.layers.QuantConv2D(
            1,
            int(kernel_size),
            padding="same",
            activation=activation,
            kernel_quantizer=_in_policy(kernel_quantizer, self._dtype_policy),
            kernel_constraint=kernel_constraint,
            use_bias=gate_bias is not None,
            bias_initializer=tf.keras.initializers.Constant(gate_bias or 0.0),
            dtype=self._dtype_policy,
            trainable="conv" not in frozen,
            name="conv",
        )

    @property
    def kernel_quantizer(self):
        return self.conv.kernel_quantizer

    def build(self, input_shape):
        with tf.name_scope(self.conv.name):
            self.conv.build((*input_shape[:-1], 2))
        super().build(input_shape)

    def call(self, inputs):
        return self.conv(
            tf.concat(
                [
                    tf.reduce_mean(inputs, axis=-1, keepdims=True),
                    tf.reduce_max(inputs, axis=-1, keepdims=True),
                ],
                axis=-1,
            )
        )

    def compute_output_shape(self, input_shape):
        return tf.TensorShape([*input_shape[:-1], 1])

    def get_config(self):
        return {
            **super().get_config(),
            "activation": self.activation,
            "kernel_size": self.conv.kernel_size[0],
            "frozen": [] if self.conv.trainable else ["conv"],
            "kernel_quantizer": lq.quantizers.serialize(self.conv.kernel_quantizer),
            "kernel_constraint": tf.keras.constraints.serialize(self.conv.kernel_constraint),
            "gate_bias": self.gate_bias,
        }


def _in_policy(quantizer, policy):
    """A quantizer that computes under a layer's policy, not under the global one."""
    found = lq.quantizers.get(quantizer)
    return type(found)(dtype=policy.name) if isinstance(quantizer, str) else found
