"""Files for the stock LiteRT runtime (`ai-edge-litert`): built-in operators only.

Filters of 1-bit layers, +-s with one s an output channel, are stored as

=========  ==================================================================================
weights    in the file, and how the graph reads them
=========  ==================================================================================
1bit       one bit a weight, in constants of a few layers each, shifted and taken modulo 2
1bit_half  as 1bit, scales and biases in float16: see `half`
int2       INT2 with scales, and DEQUANTIZE before the layer
int4       INT4, likewise
int8       INT8 with scales, read by the layer itself: mostly the fastest. LiteRT rounds the
           layer's input to 8 bits ("hybrid" kernels), which is not exact. Signs are, so for
           "w1a1" the residual convolutions are stored so, all other layers as int2
float32    as the converter leaves them
=========  ==================================================================================

Filters of `ends` that are not 1-bit become INT8 and DEQUANTIZE, whatever `weights` but float32.

INT2 read by the layer itself is not offered: LiteRT 2.3.0 loads such a file and computes something
else. INT4 read so is computed rightly, but slower than float32 and as roughly as INT8.
"""

import contextlib

import numpy as np
from ai_edge_litert import schema_py_generated as litert_schema

from larq_seresnet.export import anatomy, flatbuffer, pack
from larq_seresnet.export.inference import inference_form, saved

import tensorflow as tf

HALF = "1bit_half"
IN_BITS = (HALF, "1bit")
WEIGHTS = (*IN_BITS, "int2", "int4", "int8", "float32")
_BITS = {"int2": 2, "int4": 4, "int8": 8}
BYTE = 8


def convert(model):
    """Converts a float32 SEResNet14 to built-in operators; returns the file's bytes."""
    with _converter(model) as converter:
        return converter.convert()


def full_int8(model, images, integer_ends=False):
    """What TensorFlow's converter makes of a model by post-training quantization.

    Args:
        model: From `SEResNet14`, float32.
        images: Training images to calibrate on, as the model takes them, float32 (N, H, W, C).
        integer_ends: Whether input and output are int8 as well, not float32.

    Returns:
        A file's bytes: INT8 filters and activations.
    """
    with _converter(model) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        if integer_ends:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


@contextlib.contextmanager
def _converter(model):
    """TensorFlow's converter of a model, whose own exceptions become RuntimeError."""
    with saved(inference_form(model, binary_operators=False)) as folder:
        try:
            yield tf.lite.TFLiteConverter.from_saved_model(folder)
        except Exception as error:
            raise RuntimeError(f"TensorFlow's converter failed: {error}") from error


def store(tflite, weights, memory="least"):
    """Stores every two-valued filter of a converted model in fewer bits.

    Args:
        tflite: Bytes from `convert`.
        weights: One of `WEIGHTS` but "float32"; "1bit_half" as "1bit".
        memory: Of filters in bits: "least" unpacks those of a few layers just before they are
            read, "fewest-bytes" all at once.

    Returns:
        The new file's bytes, and the layers whose filters were left alone because they are neither
        bits nor `pack.Levels`.
    """
    model = flatbuffer.read(tflite)
    filters, ends, left_alone = pack.filters_of(model)
    for each in ends:
        pack.dequantize(model, each)
    if weights in IN_BITS:
        for run in _runs(filters) if memory == "least" else [filters]:
            _shift_and_mask(model, run)
    else:
        for group, stored_as in _quantizations(model, filters, weights):
            _quantize(model, group, stored_as)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model), left_alone


def _runs(filters):
    """Filters in the order in which they are read, in lists of as many as the largest is long."""
    most = max((each.signs.size for each in filters), default=0)
    runs, count = [[]], 0
    for each in filters:
        count += each.signs.size
        if count > most and runs[-1]:
            runs.append([])
            count = each.signs.size
        runs[-1].append(each)
    return runs


def _shift_and_mask(model, filters):
    """Filters as one constant of bytes, each shifted by 0 to 7 bits and taken modulo 2."""
    groups = pack.grouped(filters)
    if not groups:
        return
    edit = flatbuffer.Edit(model)
    signs = [np.concatenate([each.signs for each in group]) for group in groups]
    flat = np.concatenate([each.reshape(-1) for each in signs])
    stored = np.packbits(flat, bitorder="little").view(np.int8)[:, np.newaxis]
    rows = (len(stored), BYTE)
    shifts = edit.constant(np.arange(BYTE, dtype=np.int8)[np.newaxis])
    (x,) = edit.operator("RIGHT_SHIFT", [edit.constant(stored), shifts], [rows], dtype=np.int8)
    two = edit.constant(np.array(2, np.int8))
    (x,) = edit.operator("FLOOR_MOD", [x, two], [rows], dtype=np.int8)
    model.subgraphs[0].tensors[x].quantization = flatbuffer.quantization([2.0], [0])
    (x,) = edit.operator("DEQUANTIZE", [x], [rows])
    x = edit.arithmetic("ADD", x, np.float32(-1), rows)
    x = edit.reshape(x, (rows[0] * BYTE,))
    sizes = [each.size for each in signs]
    spare = rows[0] * BYTE - len(flat)
    parts = edit.split(x, [(size,) for size in [*sizes, spare] if size])
    for group, each, part in zip(groups, signs, parts, strict=False):
        unpacked = pack.scale(edit, group, edit.reshape(part, each.shape), each.shape)
        pack.connect(edit, group, unpacked, each.shape)
    edit.insert_before([each.operator for each in filters])


def _quantizations(model, filters, weights):
    """Groups of filters, and how to store each."""
    signs = [each for each in filters if anatomy.takes_zero_and_one(model, each.operator)]
    if weights == "int8" and signs:
        others = [each for each in filters if each not in signs]
        return [([each], "int8") for each in signs] + _quantizations(model, others, "int2")
    # Filters of one scale share a constant; vectors of many scales cost more than further tables.
    of_one_scale = [each for each in filters if each.equal_scale() is not None]
    groups = pack.grouped(of_one_scale)
    groups += [[each] for each in filters if each.equal_scale() is None]
    return [(group, weights) for group in groups]


def _quantize(model, group, weights):
    edit = flatbuffer.Edit(model)
    if weights == "int8":
        for each in group:
            pack.connect(edit, [each], _constant(edit, [each], weights), each.signs.shape)
        return
    shape = (sum(len(each.signs) for each in group), *group[0].signs.shape[1:])
    (x,) = edit.operator("DEQUANTIZE", [_constant(edit, group, weights)], [shape])
    pack.connect(edit, group, x, shape)
    edit.insert_before([each.operator for each in group])


def _constant(edit, group, weights):
    """The signs of a group as integers of few bits, their scales as quantization parameters.

    A channel of which nothing is left holds 0 with scale 1: a scale must be above 0.
    """
    width = _BITS[weights]
    signs, scales = (
        np.concatenate([getattr(each, part) for each in group]) for part in ("signs", "scale")
    )
    values = np.where(signs, 1, -1) * (scales > 0).reshape(-1, *[1] * (signs.ndim - 1))
    values = values.reshape(-1).astype(np.int8).view(np.uint8) & (2**width - 1)
    scales = np.where(scales, scales, 1)
    if group[0].equal_scale() is not None:
        scales = scales[:1]
    per_byte = BYTE // width
    values = np.pad(values, (0, -len(values) % per_byte)).reshape(-1, per_byte)
    stored = (values << np.arange(0, BYTE, width, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    code = getattr(litert_schema.TensorType, weights.upper())
    return edit.quantized_constant(stored, signs.shape, code, scales.astype(np.float32))
