"""The layers of the paper: squeeze-and-excitation and Feature Map Binarization, Eq. 1-6."""

import larq as lq

from larq_seresnet.arguments import check_choice, is_count

import tensorflow as tf

GATE_ACTIVATIONS = ("sigmoid", "tanh")
FMB_GRADIENTS = ("straight_through", "none")


@lq.utils.register_keras_custom_object  # HDF5 files name classes without their package
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class FMB(tf.keras.layers.Layer):
    r"""Channel Feature Map Binarization: attention values to two-valued gates, Eq. 5 and 6.

    .. math::
        M'_c = \begin{cases} 1 & M_c \geq 0.5 \\ 0 & \text{else} \end{cases} \text{ (sigmoid)}
        \qquad
        M'_c = \begin{cases} 1 & M_c \geq 0 \\ -1 & \text{else} \end{cases} \text{ (tanh)}

    in training and in inference alike. NaN stays NaN, so that a diverged run shows.

    The paper does not state the gradient. ``torch.where``, which it names, passes none: the layers
    before then keep their initial weights. Hence both readings.

    Args:
        activation: "sigmoid" or "tanh", whichever produced the input.
        gradient: "straight_through" passes the gradient of M'_c to M_c unchanged, "none" stops it.

    Input and output: M_c and M'_c, of one shape, any; in SEResNet14 (N, 1, 1, C).

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
            if self.activation == "tanh":
                gates = lq.math.sign(attention)
            else:
                gates = 0.5 * lq.math.sign(attention - 0.5) + 0.5
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
    """Channels repeated in order until there are so many; what is too much is cut off.

    Args:
        channels: How many the output has.

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
class Shift(tf.keras.layers.Layer):
    """x + b, with one trained b a channel that begins at 0: where the sign after it turns.

    After Z. Liu et al., "ReActNet", ECCV 2020. Input and output: (N, H, W, C).
    """

    def build(self, input_shape):
        self.shift = self.add_weight("shift", [input_shape[-1]], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        return inputs + self.shift


@lq.utils.register_keras_custom_object
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class SqueezeExcite(tf.keras.layers.Layer):
    r"""The channel attention of the paper, Eq. 1-4: one value a channel.

    .. math:: M_c = \mathrm{act}(W_1\, \mathrm{relu}(W_0\, \mathrm{avgpool}(F)) + b)

    with W_0 of shape (C, C/r) and W_1 of shape (C/r, C). The caller multiplies: F' = M_c * F, or
    with :class:`FMB` between, F' = M'_c * F (Eq. 7).

    The paper has neither scale nor bias; ``kernel_quantizer="ste_sign", gate_bias=None`` is its
    form. With bare +-1 weights the argument of `activation` grows with C and the gates saturate
    from the first step on; "scaled_sign" (:class:`~larq_seresnet.precision.ScaledSign`) keeps its
    variance at any C.

    Args:
        activation: "sigmoid" or "tanh".
        reduction_ratio: r; must divide C.
        kernel_quantizer: larq quantizer of W_0 and W_1, and with it their scale: "scaled_sign",
            "ste_sign", "magnitude_aware_sign", an instance; None for float weights.
        kernel_constraint: Constraint of W_0 and W_1, such as "weight_clip".
        gate_bias: Initial value of b; above 0 the gates start open. None for no bias.
        frozen: Which of its parts do not learn, "reduce" (W_0) or "expand" (W_1 and b), as after
            ``layer.reduce.trainable = False``.

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
        **kwargs,
    ):
        check_choice("activation", activation, GATE_ACTIVATIONS)
        if not is_count(reduction_ratio):
            raise ValueError(
                f"`reduction_ratio` must be a positive integer, received {reduction_ratio!r}."
            )
        for part in frozen:
            check_choice("frozen", part, ("reduce", "expand"))
        super().__init__(**kwargs)
        self.activation = activation
        self.reduction_ratio = int(reduction_ratio)
        self.kernel_quantizer = lq.quantizers.get(kernel_quantizer)
        if isinstance(kernel_quantizer, str):  # not in the dtype of the global policy
            self.kernel_quantizer = type(self.kernel_quantizer)(dtype=self._dtype_policy)
        self.kernel_constraint = tf.keras.constraints.get(kernel_constraint)
        self.gate_bias = gate_bias
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
        if channels % self.reduction_ratio:
            raise ValueError(
                f"`reduction_ratio` must divide the number of channels, {channels}, "
                f"received {self.reduction_ratio}."
            )
        squeezed = channels // self.reduction_ratio
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
        parts = (self.reduce, self.expand) if self.built else ()
        return {
            **super().get_config(),
            "activation": self.activation,
            "reduction_ratio": self.reduction_ratio,
            "kernel_quantizer": lq.quantizers.serialize(self.kernel_quantizer),
            "kernel_constraint": tf.keras.constraints.serialize(self.kernel_constraint),
            "gate_bias": self.gate_bias,
            # Keras's HDF5 goes by position, in an order that depends on it
            "frozen": [part.name for part in parts if not part.trainable] or list(self._frozen),
        }
