"""1-bit storage for layers with 1-bit weights and float input.

LCE's converter stores their filters as float32, +-s with one s an output channel. Here they become

    bits (int32) -> LceDequantize -> [RESHAPE] -> [MUL by s] -> [SPLIT_V] -> the layer

which the stock LCE runtime computes to the same bits. Filters that differ in their output channels
alone are unpacked together: that saves operators and tensors, which outweigh small filters. Where
the input channels do not fill 32-bit words, the bits run on over a flattened dimension, and so do
those of binary convolutions: they are unpacked and packed again as LCE wants them.
"""

import collections
import dataclasses
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from larq_compute_engine.mlir.python import tflite_schema as schema

from larq_seresnet.export import flatbuffer

#: Greatest relative difference of magnitudes within an output channel that counts as rounding.
TOLERANCE = 1e-5
WORD = 32


@dataclasses.dataclass(frozen=True)
class _Filter:
    """A two-valued filter: signs, True is +1, (O, ...), and magnitudes, (O,)."""

    operator: Any
    signs: np.ndarray
    scale: np.ndarray

    def group(self):
        """What filters that are unpacked together have in common."""
        equal = (self.scale == self.scale[0]).all()
        binary = isinstance(self, _BinaryFilter)
        return binary, self.signs.shape[1:], float(self.scale[0]) if equal else None


class _BinaryFilter(_Filter):
    """That of a binary convolution, which takes it as bits."""


def pack(tflite):
    """Stores every two-valued float filter of a converted model as bits.

    Args:
        tflite: Bytes of a file that LCE converted.

    Returns:
        The packed file's bytes, and the layers whose filters were left alone because they hold
        more than two values.
    """
    model = flatbuffer.read(tflite)
    groups, left_alone = collections.defaultdict(list), []
    for operator in model.subgraphs[0].operators:
        name = flatbuffer.operator_name(model, operator)
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            values = flatbuffer.constant(model, operator.inputs[1])
            found = None if values is None else two_valued(operator, values)
            if found:
                groups[found.group()].append(found)
            elif values is not None:
                left_alone.append(flatbuffer.layer_path(model.subgraphs[0], operator)[1])
        elif name == "LceBconv2d":
            found = _half_empty(operator, flatbuffer.constant(model, operator.inputs[1]))
            if found:
                groups[found.group()].append(found)
    for filters in groups.values():
        _unpack_in_graph(model, filters)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model), left_alone


def two_valued(operator, values):
    """A float filter, (O, ...), as signs and magnitudes; None if an output channel has others."""
    magnitudes = np.abs(values).reshape(len(values), -1)
    scale = magnitudes.max(axis=1)
    if (magnitudes >= (1 - TOLERANCE) * scale[:, np.newaxis]).all() and scale.all():
        return _Filter(operator, values > 0, scale)
    return None


def _half_empty(operator, words):
    """The filter of a binary convolution whose input channels do not fill its words, else None."""
    channels = flexbuffers.Loads(bytes(operator.customOptions))["channels_in"]
    if channels % WORD == 0:
        return None
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    return _BinaryFilter(operator, bits == 0, np.ones(len(words), np.float32))


def strip(tflite):
    """Drops names, signatures and metadata, which the runtime does not need; bytes in and out."""
    model = flatbuffer.read(tflite)
    flatbuffer.strip(model)
    return flatbuffer.write(model)


def bits(signs):
    """Packs signs (True is +1) along the last dimension, as LCE does.

    Returns:
        int32, (..., ceil(C / 32)): bit 0 is +1, bit 1 is -1, least significant first.
    """
    padding = [(0, 0)] * (signs.ndim - 1) + [(0, -signs.shape[-1] % WORD)]
    return np.packbits(np.pad(~signs, padding), axis=-1, bitorder="little").view("<i4")


def _unpack_in_graph(model, filters):
    """Adds what unpacks filters of one shape, and makes their operators read from it."""
    edit = flatbuffer.Edit(model)
    signs = np.concatenate([each.signs for each in filters])
    scale = np.concatenate([each.scale for each in filters])
    shape = signs.shape
    if shape[-1] % WORD == 0:
        (x,) = edit.operator("LceDequantize", [edit.constant(bits(signs))], [shape])
    else:
        flat = signs.reshape(1, -1)
        (x,) = edit.operator("LceDequantize", [edit.constant(bits(flat))], [flat.shape])
        new_shape = edit.constant(np.array(shape, np.int32))
        (x,) = edit.operator("RESHAPE", [x, new_shape], [shape])
    if (scale != 1).any():
        equal = (scale == scale[0]).all()
        factors = scale[0] if equal else scale.reshape(-1, *[1] * (len(shape) - 1))
        (x,) = edit.operator("MUL", [x, edit.constant(factors)], [shape], schema.MulOptionsT())
    dtype = np.float32
    if isinstance(filters[0], _BinaryFilter):
        shape, dtype = (*shape[:-1], -(-shape[-1] // WORD)), np.int32
        (x,) = edit.operator("LceQuantize", [x], [shape], dtype=dtype)
    outputs = [x]
    if len(filters) > 1:
        outputs = edit.split(x, [(len(each.signs), *shape[1:]) for each in filters], dtype)
    for each, tensor in zip(filters, outputs, strict=True):
        each.operator.inputs = [each.operator.inputs[0], tensor, *each.operator.inputs[2:]]
    edit.insert_before([each.operator for each in filters])
