"""1-bit storage for layers with 1-bit weights and float input, in LCE's flatbuffers.

LCE's converter stores their filters as float32, +-s with one s an output channel. Here they become

    bits (int32) -> LceDequantize -> [SPLIT_V] -> [RESHAPE] -> [MUL by s] -> [SPLIT] -> the layer

which the stock LCE runtime computes to the same bits. Each is unpacked by itself, just before it is
read: the runtime's planner then gives all of them one place in memory. Or filters that differ in
their output channels alone are unpacked together: that saves operators and tensors, which outweigh
small filters. Where the input channels do not fill 32-bit words, the bits run on over a flattened
dimension, if it saves bytes over all such filters, however different; and so do those of binary
convolutions: they are unpacked and packed again as LCE wants them.
"""

import collections
import dataclasses
from typing import Any

import numpy as np

from larq_seresnet.export import anatomy, flatbuffer
from larq_seresnet.precision import EightBit, SumOfSigns

#: Greatest relative difference of magnitudes within an output channel that counts as rounding.
TOLERANCE = 1e-5
WORD = 32
#: What is spared where filters are unpacked.
MEMORY = ("least", "fewest-bytes")
#: A SPLIT_V takes as many bytes as so many LceDequantize, each with a constant of its own.
_SPLIT_V_IN_CONSTANTS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Filter:
    """A two-valued filter.

    Attributes:
        operator: Whose it is.
        signs: True is +1, (O, ...).
        scale: Magnitude of each output channel, (O,): 0 where nothing is left of one.
        binary: Whether the operator is a binary convolution, which takes bits.
    """

    operator: Any
    signs: np.ndarray
    scale: np.ndarray
    binary: bool = False

    def equal_scale(self):
        """The one scale of all output channels; None if they differ."""
        return float(self.scale[0]) if (self.scale == self.scale[0]).all() else None


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """A filter of whole numbers times one scale an output channel: that of an end of the network.

    Attributes:
        operator: Whose it is.
        values: int8, (O, ...).
        scale: (O,), float32.
    """

    operator: Any
    values: np.ndarray
    scale: np.ndarray


def pack(tflite, memory="least"):
    """Stores every two-valued float filter of a converted model as bits, and `Levels` as INT8.

    Args:
        tflite: Bytes of a file that LCE converted.
        memory: "least" unpacks each filter by itself, "fewest-bytes" those of one kind together,
            and many kinds from one constant.

    Returns:
        The packed file's bytes, and the layers whose filters were left alone because they hold
        other values.
    """
    model = flatbuffer.read(tflite)
    filters, ends, left_alone = filters_of(model)
    for each in ends:
        dequantize(model, each)
    half_empty = _half_empty_filters(model)
    for groups in _lists_of_groups(filters, memory):
        _unpack_in_graph(model, groups)
    for group in grouped(half_empty):
        # LCE's matrix product knows filters by their address: unpacked one group after the other,
        # two of one shape may have the same
        _unpack_in_graph(model, [group], half_empty)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model), left_alone


def filters_of(model):
    """The float filters of a graph that can be stored in fewer bits.

    Returns:
        A list of `Filter`, those that hold +-s with one s an output channel; a list of `Levels`;
        and the names of the layers whose filters hold other values.
    """
    graph = model.subgraphs[0]
    filters, ends, left_alone = [], [], []
    for operator in graph.operators:
        if flatbuffer.operator_name(model, operator) not in anatomy.WITH_FILTERS:
            continue
        values = flatbuffer.constant(model, operator.inputs[1])
        if values is None:
            continue
        magnitudes = np.abs(values).reshape(len(values), -1)
        scale = magnitudes.max(axis=1)
        if (magnitudes >= (1 - TOLERANCE) * scale[:, np.newaxis]).all():
            filters.append(Filter(operator, values > 0, scale))
            continue
        found = _levels(operator, values, scale)
        if found:
            ends.append(found)
        else:
            left_alone.append(anatomy.layer_name(graph, operator))
    return filters, ends, left_alone


def _levels(operator, values, greatest):
    """The whole numbers of a filter of `SumOfSigns` or `EightBit`; None for another one."""
    greatest = np.where(greatest, greatest, 1).reshape(-1, *[1] * (values.ndim - 1))
    for quantizer in (SumOfSigns, EightBit):
        numbers = values * (quantizer.top / greatest)
        rounded = np.round(numbers)
        odd = quantizer is EightBit or ((rounded % 2 == 1) | (values == 0)).all()
        if odd and np.allclose(numbers, rounded, rtol=0, atol=TOLERANCE * quantizer.top):
            scale = (greatest / quantizer.top).reshape(-1).astype(np.float32)
            return Levels(operator, rounded.astype(np.int8), scale)
    return None


def dequantize(model, end):
    """Stores a filter of `Levels` as INT8, and unpacks it in the graph before its operator."""
    edit = flatbuffer.Edit(model)
    shape = end.values.shape
    stored = edit.quantized_constant(
        end.values, shape, flatbuffer.schema.TensorType.INT8, end.scale
    )
    (x,) = edit.operator("DEQUANTIZE", [stored], [shape])
    connect(edit, [end], x, shape)
    edit.insert_before([end.operator])


def _half_empty_filters(model):
    """Those of binary convolutions whose input channels do not fill the words that hold them."""
    filters = []
    for operator in model.subgraphs[0].operators:
        if flatbuffer.operator_name(model, operator) != "LceBconv2d":
            continue
        channels = anatomy.channels_in(operator)
        if channels % WORD:
            words = flatbuffer.constant(model, operator.inputs[1])
            stored = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
            scale = np.ones(len(words), np.float32)
            filters.append(Filter(operator, stored[..., :channels] == 0, scale, binary=True))
    return filters


def grouped(filters):
    """Lists of filters that can be unpacked together: only their output channels differ."""
    groups = collections.defaultdict(list)
    for each in filters:
        groups[each.binary, each.signs.shape[1:], each.equal_scale()].append(each)
    return list(groups.values())


def bits(signs):
    """Packs signs (True is +1) along the last dimension, as LCE does.

    Returns:
        int32, (..., ceil(C / 32)): bit 0 is +1, bit 1 is -1, least significant first.
    """
    padding = [(0, 0)] * (signs.ndim - 1) + [(0, -signs.shape[-1] % WORD)]
    return np.packbits(np.pad(~signs, padding), axis=-1, bitorder="little").view("<i4")


def _lists_of_groups(filters, memory):
    """Groups of filters as `pack` unpacks them: those of a list from one constant."""
    if memory == "least":
        return [[[each]] for each in filters]
    flat, whole = [], []
    for group in grouped(filters):
        (flat if group[0].signs.shape[-1] % WORD else whole).append(group)
    if len(flat) > _SPLIT_V_IN_CONSTANTS:
        return [[group] for group in whole] + [flat]
    return [[group] for group in whole + flat]


def _unpack_in_graph(model, groups, readers=None):
    """Adds what unpacks groups of filters from one constant, and connects them.

    It stands before the first of `readers`, by default of the filters' own operators.
    """
    edit = flatbuffer.Edit(model)
    signs = [np.concatenate([each.signs for each in group]) for group in groups]
    for group, x, each in zip(groups, _unpacked(edit, signs), signs, strict=True):
        if group[0].binary:
            words = (*each.shape[:-1], -(-each.shape[-1] // WORD))
            (x,) = edit.operator("LceQuantize", [x], [words], dtype=np.int32)
            connect(edit, group, x, words, np.int32)
        else:
            connect(edit, group, scale(edit, group, x, each.shape), each.shape)
    readers = readers or [each for group in groups for each in group]
    edit.insert_before([each.operator for each in readers])


def _unpacked(edit, signs):
    """Tensors of +-1, one for each array of signs, from one constant of bits."""
    if len(signs) == 1 and signs[0].shape[-1] % WORD == 0:
        return edit.operator("LceDequantize", [edit.constant(bits(signs[0]))], [signs[0].shape])
    flat = np.concatenate([each.reshape(-1) for each in signs])[np.newaxis]
    (x,) = edit.operator("LceDequantize", [edit.constant(bits(flat))], [flat.shape])
    parts = edit.split(x, [(1, each.size) for each in signs], axis=1)
    return [edit.reshape(part, each.shape) for part, each in zip(parts, signs, strict=True)]


def scale(edit, group, signs, shape):
    """Multiplies the unpacked +-1 of a group by their scales; returns the tensor."""
    factors = np.concatenate([each.scale for each in group])
    if (factors == 1).all():
        return signs
    equal = group[0].equal_scale() is not None
    factors = factors[0] if equal else factors.reshape(-1, *[1] * (len(shape) - 1))
    return edit.arithmetic("MUL", signs, factors, shape)


def connect(edit, group, unpacked, shape, dtype=np.float32):
    """Makes the operators of a group read their filters from one tensor, O by O."""
    parts = [unpacked]
    if len(group) > 1:
        shapes = [(len(each.signs), *shape[1:]) for each in group]
        parts = edit.split(unpacked, shapes, dtype=dtype)
    for each, part in zip(group, parts, strict=True):
        each.operator.inputs = [each.operator.inputs[0], part, *each.operator.inputs[2:]]
