"""Scales and biases in float16: half of the numbers that stand in a file beside its bits.

What is stored so is a network whose scales and biases are float16 numbers already: `rounded` makes
it of a trained one, and what it computes is compared with that, too. In the file they are
constants of 16 bits, one for the biases and one for the scales of each kind of filter,

    float16 -> DEQUANTIZE -> [SPLIT_V] -> biases, or the MUL of filters

for as many constants of their own would cost more than half of the bits save.
"""

import collections

import numpy as np

from larq_seresnet.export import anatomy, flatbuffer
from larq_seresnet.export.inference import kernel_and_scale, parts_with_kernels
from larq_seresnet.layers import FMB, SpatialAttention, SqueezeExcite
from larq_seresnet.weights import copy_weights, named_weights

import tensorflow as tf

#: The least float16 above 0. A gate of bias 0 gets it: LCE's gates are signs, and there 0 itself
#: counts as open by the next greater bias, of which float16 would make 0 again.
_LEAST = np.float32(2**-24)


def rounded(model):
    """A SEResNet14 like another one, whose scales and biases on a device are float16 numbers.

    Each BatchNorm becomes x * s + b with s = gamma / sqrt(variance + epsilon), rounded, and
    b = beta - mean * s with that s, rounded.

    Args:
        model: From `SEResNet14`, "w1", float32.

    Raises:
        ValueError: If it has binary convolutions, or float16 has no such numbers.
    """
    if not is_for(model):
        raise ValueError(
            "--weights 1bit_half is not for 1-bit activations, for binary convolutions read their "
            "scales once, when a file is loaded: use 1bit."
        )
    copy = tf.keras.models.clone_model(model)
    binary_gates = any(isinstance(layer, FMB) for layer in model.layers)
    for layer in model.layers:
        other = copy.get_layer(layer.name)
        copy_weights(layer, other)
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            if layer.scale and layer.center:  # as all of ours: an `input_tensor` may bring others
                _round_batch_norm(other)
        elif isinstance(layer, (SqueezeExcite, SpatialAttention)):
            parts = parts_with_kernels(other)
            if parts[-1].use_bias:
                scales = [kernel_and_scale(each)[1] for each in parts]
                if binary_gates:
                    _round(parts[-1].bias, np.prod(scales), _LEAST)
                else:
                    _round(parts[-1].bias)
        elif getattr(layer, "use_bias", False):
            _round(other.bias)
    return copy


def is_for(model):
    """Whether a network's numbers can be stored so: not with binary convolutions."""
    return not any(getattr(layer, "input_quantizer", None) for layer in model.layers)


def _round_batch_norm(layer):
    weights = named_weights(layer)
    epsilon = np.float32(layer.epsilon)
    exact = (weights["gamma"] / np.sqrt(weights["moving_variance"] + epsilon)).numpy()
    scale = _half(exact)
    if ((scale == 0) & (exact != 0)).any():
        raise ValueError(
            f"--weights 1bit_half needs scales that float16 does not round to 0, {layer.name} has "
            "smaller ones: use 1bit."
        )
    offset = _half(weights["beta"] - weights["moving_mean"] * scale)
    one = np.float32(1) - epsilon
    assert one + epsilon == 1  # else not s would be computed with, but what is next to it
    weights["gamma"].assign(scale)
    weights["beta"].assign(offset)
    weights["moving_mean"].assign(np.zeros_like(offset))
    weights["moving_variance"].assign(np.full_like(scale, one))


def _round(bias, unit=1, of_zero=0):
    """Rounds a bias that a device gets divided by `unit`, 0 to another number."""
    halves = _half(bias.numpy() / unit)
    bias.assign(np.where(halves == 0, np.float32(of_zero), halves) * np.float32(unit))


def _half(numbers):
    """The next float16 numbers, as float32."""
    numbers = np.asarray(numbers)
    if not np.isfinite(numbers).all():
        raise ValueError("the scales or biases hold NaN or infinity: the model diverged.")
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16).astype(np.float32)
    if not np.isfinite(halves).all():
        raise ValueError(
            f"--weights 1bit_half needs scales and biases below {np.finfo(np.float16).max:.0f}, "
            f"received {np.abs(numbers).max():.0f}: use 1bit."
        )
    return halves


def is_stored(model):
    """Whether a file, from `flatbuffer.read`, holds float16 numbers."""
    return "FLOAT16" in anatomy.tensor_types(model)


def store(tflite):
    """Stores biases, and the scales of unpacked filters, as float16 where they are such numbers.

    Args:
        tflite: Bytes of a file whose filters are bits, made of what `rounded` returns.

    Returns:
        The new file's bytes.
    """
    model = flatbuffer.read(tflite)
    readers = _readers(model)
    if not readers:
        return tflite
    edit = flatbuffer.Edit(model)
    kinds = collections.defaultdict(dict)
    for _, index in readers:
        values = flatbuffer.constant(model, index)
        kinds[values.shape[1:]][index] = values
    place = {}
    for kind in kinds.values():
        numbers = np.concatenate(list(kind.values())).astype(np.float16)
        (x,) = edit.operator("DEQUANTIZE", [edit.constant(numbers)], [numbers.shape])
        parts = edit.split(x, [each.shape for each in kind.values()])
        place |= zip(kind, parts, strict=True)
    for operator, _ in readers:
        operator.inputs = [place.get(each, each) for each in operator.inputs]
    edit.insert_before(model.subgraphs[0].operators)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model)


def _are_halves(values):
    """Whether float16 has these numbers, but for the rounding of whoever computed them."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
    return np.allclose(values, halves, rtol=1e-6, atol=1e-30)


def _readers(model):
    """Pairs of an operator and the constant of several scales or biases that it reads.

    Those that are no float16 numbers stay as they are: a converter may have put more into them,
    such as the slope of hard_sigmoid.
    """
    of_filters = {id(each) for each in anatomy.unpacking(model)}
    found = []
    for operator in model.subgraphs[0].operators:
        name = flatbuffer.operator_name(model, operator)
        if name in anatomy.WITH_FILTERS:
            candidates = operator.inputs[2:]
        else:
            candidates = operator.inputs if name == "MUL" and id(operator) in of_filters else []
        for index in candidates:
            values = None if index < 0 else flatbuffer.constant(model, index)
            if values is not None and values.size > 1 and _are_halves(values):
                found.append((operator, index))
    return found
