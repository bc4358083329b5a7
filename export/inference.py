"""The network as a device computes it: the same function with fewer and cheaper operators."""

import contextlib
import json
import tempfile

import larq as lq
import numpy as np

from larq_seresnet import SEResNet14
from larq_seresnet.layers import FMB, GATE_ACTIVATIONS, SpatialAttention, SqueezeExcite
from larq_seresnet.precision import layers_in
from larq_seresnet.weights import copy_weights

import tensorflow as tf


def in_float32(model):
    """The same SEResNet14, computing in float32 whatever policy it was built under.

    Raises:
        ValueError: If it was built under another, and has layers that `SEResNet14` does not make.
    """
    computing = [
        layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)
    ]
    if all(layer.compute_dtype == "float32" for layer in computing):
        return model
    if not hasattr(model, "configuration"):
        raise ValueError(
            f"`model` must be a SEResNet14, or be built under the policy float32: {model.name} is "
            "neither. Build it anew under float32 and give it these weights, "
            "new.set_weights(model.get_weights())."
        )
    with layers_in("float32"):
        copy = SEResNet14(**json.loads(model.configuration), weights=None, name=model.name)
    ours = {layer.name for layer in copy.layers}
    others = [layer.name for layer in model.layers[1:] if layer.name not in ours]
    if others:
        raise ValueError(
            f"`model` must be built under the policy float32 where it has layers of its own, "
            f"received {others}."
        )
    for layer in model.layers:
        if layer.weights:
            copy_weights(layer, copy.get_layer(layer.name))
    return copy


@contextlib.contextmanager
def saved(form):
    """The folder of a SavedModel that holds what a model computes and nothing else.

    `Model.save` would trace every layer of its own, too, which takes most of the time.
    """
    (name,), (output,) = form.input_names, form.output_names
    spec = tf.TensorSpec(form.input_shape, form.inputs[0].dtype, name=name)
    module = tf.Module()
    module.variables_of_form = form.variables
    module.serve = tf.function(lambda images: {output: form(images, training=False)}, [spec])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=module.serve)
        yield folder


def inference_form(model, binary_operators=True, gates_by_sign=False):
    """Rewrites a trained SEResNet14 for inference; its layers keep their names.

    With FMB, Eq. 5 and 6 need no sigmoid or tanh: M_c is on or above its threshold where the
    argument of the activation is on or above 0. The scale of the attention's 1-bit weights drops
    out too, once the bias is divided by it.

    Args:
        model: From `SEResNet14`, float32.
        binary_operators: Whether the runtime has binary convolutions. Without, the inputs of those
            of "w1a1" become {0, 1} instead of +-1: two operators instead of three, and exact where
            a kernel rounds its inputs to 8 bits.
        gates_by_sign: Whether gates of 0 and 1 are the sign of what a ReLU lets through, an
            operator less than a comparison, where the attention has a bias. Exact for what is in
            float32, for the bias becomes the next greater number: x + b >= 0 where x + b' > 0.

    Returns:
        A functional model with the same inputs and probabilities.
    """
    bare = _read_by_fmb_alone(model)
    signs = {name for name in bare if gates_by_sign and _has_gates_of_bias(model.get_layer(name))}

    def rewrite(layer):
        if isinstance(layer, (SqueezeExcite, SpatialAttention)):
            return _attention(layer, layer.name in bare, layer.name in signs)
        if isinstance(layer, FMB):
            attention = layer.inbound_nodes[0].inbound_layers.name
            if attention in signs:
                return _Sign(name=layer.name)
            gate = GATE_ACTIVATIONS[layer.activation]
            threshold = 0.0 if attention in bare else gate.threshold
            return _Threshold(gate.closed, threshold, name=layer.name)
        if not binary_operators and getattr(layer, "input_quantizer", None):
            return _SignConvolution(layer)
        return type(layer).from_config(layer.get_config())

    rewritten = tf.keras.models.clone_model(model, clone_function=rewrite)
    for layer in model.layers:
        copy = rewritten.get_layer(layer.name)
        if type(copy) is type(layer):
            copy_weights(layer, copy)
    # LCE cuts names off after 50 characters; without the model's own the layer's always fits.
    return tf.keras.Model(rewritten.input, rewritten.output, name="m")


def eight_bit_form(model):
    """The inference form with the inputs of all layers with 1-bit kernels rounded to 8 bits.

    That is what LiteRT's kernels for float input and INT8 filters do, image by image.
    """
    form = inference_form(model)

    def rewrite(layer):
        if isinstance(layer, _Constant):
            two_valued = all(np.ptp(np.abs(kernel)) == 0 for kernel in layer.kernels)
            return type(layer).from_config(layer.get_config() | {"eight_bit": two_valued})
        if isinstance(getattr(layer, "kernel_quantizer", None), lq.quantizers.SteSign):
            return _EightBitInput(type(layer).from_config(layer.get_config()), name=layer.name)
        return type(layer).from_config(layer.get_config())

    rounded = tf.keras.models.clone_model(form, clone_function=rewrite)
    for layer in form.layers:
        copy_weights(layer, rounded.get_layer(layer.name))
    return rounded


def round_to_eight_bits(x):
    """Rounds to 256 steps between the least and the greatest value of each image, with 0 a step."""
    axes = list(range(1, x.shape.rank))
    least = tf.minimum(tf.reduce_min(x, axes, keepdims=True), 0.0)
    greatest = tf.maximum(tf.reduce_max(x, axes, keepdims=True), 0.0)
    step = (greatest - least) / 255.0
    step = tf.where(step == 0.0, 1.0, step)
    zero = tf.round(-128.0 - least / step)
    return (tf.clip_by_value(tf.round(x / step) + zero, -128.0, 127.0) - zero) * step


def _read_by_fmb_alone(model):
    """The names of the attention layers whose values nothing but FMB sees: no output does."""
    copy = tf.keras.models.clone_model(model)  # whose layers are read in no other model
    return {
        layer.name
        for layer in copy.layers
        if isinstance(layer, (SqueezeExcite, SpatialAttention))
        and layer.name not in copy.output_names
        and all(isinstance(node.layer, FMB) for node in layer.outbound_nodes)
    }


def _has_gates_of_bias(attention):
    """Whether FMB makes gates of 0 and 1 of an attention layer that has a bias."""
    return (
        GATE_ACTIVATIONS[attention.activation].closed == 0.0
        and parts_with_kernels(attention)[-1].use_bias
    )


def _attention(layer, bare, by_sign):
    parts = parts_with_kernels(layer)
    kernels, scales = zip(*map(kernel_and_scale, parts), strict=True)
    bias = parts[-1].bias.numpy() if parts[-1].use_bias else None
    form = _ChannelAttention if isinstance(layer, SqueezeExcite) else _SpatialAttention
    if bare:
        bias = None if bias is None else bias / np.prod(scales)
        if by_sign:
            bias = _next_greater(np.float32(bias))
        return form(kernels, bias, None, name=layer.name)
    kernels = [kernel * scale for kernel, scale in zip(kernels, scales, strict=True)]
    return form(kernels, bias, layer.activation, name=layer.name)


def _next_greater(numbers):
    """The next greater float32 of each; but none so small that a runtime takes it for 0."""
    tiny = np.finfo(np.float32).tiny
    greater = np.nextafter(numbers, np.float32(np.inf))
    return np.where(np.abs(numbers) < tiny, tiny, greater)


def parts_with_kernels(attention):
    """The layers within an attention layer, in the order in which they compute."""
    if isinstance(attention, SqueezeExcite):
        return [attention.reduce, attention.expand]
    return [attention.conv]


def kernel_and_scale(part):
    """The kernel that a layer multiplies with, and its scale, taken out where it has one only."""
    with lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(part.kernel).numpy()
    scale = np.abs(kernel).max()
    if np.allclose(np.abs(kernel), scale, rtol=1e-6, atol=0):
        return np.sign(kernel), scale
    return kernel, np.float32(1)


def quantized_kernels(model):
    """The kernels that a model quantizes, as it multiplies with them: (..., in, out)."""
    with lq.context.quantized_scope(True):
        return [
            tf.convert_to_tensor(part.kernel).numpy()
            for part in model.submodules
            if getattr(part, "kernel_quantizer", None) is not None and hasattr(part, "kernel")
        ]


class _Constant(tf.keras.layers.Layer):
    """An attention layer whose kernels are constants; without `activation` that one's argument."""

    def __init__(self, kernels, bias, activation, eight_bit=False, **kwargs):
        super().__init__(**kwargs)
        self.kernels, self.bias, self.eight_bit = list(kernels), bias, eight_bit
        self.rounded = round_to_eight_bits if eight_bit else tf.identity
        self.activation = tf.keras.activations.get(activation)

    def get_config(self):
        names = ("name", "kernels", "bias", "activation", "eight_bit")
        return {name: getattr(self, name) for name in names}

    def call(self, inputs):
        argument = self.argument(inputs)
        return self.activation(argument if self.bias is None else argument + self.bias)


class _ChannelAttention(_Constant):
    """W1 relu(W0 avgpool(F)) + b of Eq. 4.

    All maps are (N, 1, 1, C): the products need no reshaping, which would be an operator each.
    """

    def argument(self, inputs):
        w0, w1 = self.kernels
        squeezed = tf.reduce_mean(inputs, axis=[1, 2], keepdims=True)
        reduced = tf.nn.relu(tf.matmul(self.rounded(squeezed), w0))
        return tf.matmul(self.rounded(reduced), w1)


class _SpatialAttention(_Constant):
    """w * [mean(F); max(F)] + b, both over channels."""

    def argument(self, inputs):
        both = [each(inputs, axis=-1, keepdims=True) for each in (tf.reduce_mean, tf.reduce_max)]
        return tf.nn.conv2d(self.rounded(tf.concat(both, axis=-1)), self.kernels[0], 1, "SAME")


class _EightBitInput(tf.keras.layers.Wrapper):
    """A layer whose input is rounded."""

    def call(self, inputs):
        return self.layer(round_to_eight_bits(inputs))


class _SignConvolution(tf.keras.layers.Layer):
    """A convolution of sign(x): with b = (sign(x) + 1) / 2, w * sign(x) = 2 w * b - sum(w)."""

    def __init__(self, layer):
        super().__init__(name=layer.name)
        with lq.context.quantized_scope(True):
            self.kernel = tf.convert_to_tensor(layer.kernel).numpy()
        self.strides = layer.strides

    def call(self, inputs):
        ones = tf.cast(inputs >= 0.0, tf.float32)
        padding = [[0, 0], *self._padding(inputs.shape), [0, 0]]
        padded = tf.pad(ones, padding, constant_values=1.0)
        convolved = tf.nn.conv2d(padded, 2 * self.kernel, self.strides, "VALID")
        return convolved - self.kernel.sum(axis=(0, 1, 2))

    def _padding(self, shape):
        """What "same" adds before and after height and width."""
        added = []
        for size, kernel, stride in zip(shape[1:3], self.kernel.shape, self.strides, strict=False):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            added.append([total // 2, total - total // 2])
        return added


class _Sign(tf.keras.layers.Layer):
    """1 where the argument is above 0, 0 elsewhere."""

    def call(self, inputs):
        return tf.sign(tf.nn.relu(inputs))


class _Threshold(tf.keras.layers.Layer):
    """1 where the argument is `threshold` or more, `low` elsewhere."""

    def __init__(self, low, threshold, **kwargs):
        super().__init__(**kwargs)
        self.low, self.threshold = low, threshold

    def call(self, inputs):
        if self.low == 0.0:
            return tf.cast(inputs >= self.threshold, tf.float32)
        return tf.where(inputs >= self.threshold, 1.0, self.low)
