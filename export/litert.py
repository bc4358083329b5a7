"""Files for the stock LiteRT runtime (`ai-edge-litert`): built-in operators only.

Filters of 1-bit layers, +-s with one s an output channel, are stored as

========  ==================================================  ======================================
weights   in the file                                         in the graph
========  ==================================================  ======================================
1bit      one bit a weight, all in one constant               shifted and masked, once for all layers
int2      INT2, scales as quantization parameters             DEQUANTIZE before the layer
int4      INT4, likewise                                      DEQUANTIZE before the layer
int8      INT8, likewise                                      read by the layer itself ("hybrid"
                                                              kernels), which rounds its input to 8
                                                              bits: fast, and not exact
float32   as the converter leaves them                        -
========  ==================================================  ======================================

INT2 and INT4 read by the layer itself are not offered: LiteRT 2.3.0 loads such files and computes
NaN or nonsense.
"""

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as litert_schema
from ai_edge_litert.interpreter import Interpreter

from larq_seresnet.export import flatbuffer, pack
from larq_seresnet.export.inference import inference_form

WEIGHTS = ("1bit", "int2", "int4", "int8", "float32")
_BITS = {"int2": 2, "int4": 4, "int8": 8}
BYTE = 8


def convert(model):
    """Converts a float32 SEResNet14 to built-in operators; returns the file's bytes."""
    form = inference_form(model, binary_operators=False)
    return tf.lite.TFLiteConverter.from_keras_model(form).convert()


def store(tflite, weights):
    """Stores every two-valued filter of a converted model in fewer bits.

    Args:
        tflite: Bytes from `convert`.
        weights: One of `WEIGHTS`.

    Returns:
        The new file's bytes, and the layers whose filters were left alone because they hold more
        than two values.
    """
    model = flatbuffer.read(tflite)
    filters, left_alone = pack.two_valued_filters(model)
    if weights == "1bit":
        _shift_and_mask(model, filters)
    elif weights != "float32":
        for group in _of_one_quantization(filters):
            _quantize(model, group, weights)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model), left_alone


def run(tflite, images):
    """Outputs of a file, one image at a time, from LiteRT's interpreter.

    Args:
        tflite: The file's bytes.
        images: What the file takes, (N, H, W, C).

    Returns:
        (N, num_classes); a list of arrays if the file has several outputs.
    """
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]["index"]
    given = [each["index"] for each in interpreter.get_output_details()]
    outputs: list[list[np.ndarray]] = [[] for _ in given]
    for image in images:
        interpreter.set_tensor(taken, image[np.newaxis])
        interpreter.invoke()
        for kept, index in zip(outputs, given, strict=True):
            kept.append(interpreter.get_tensor(index))
    arrays = [np.concatenate(kept) for kept in outputs]
    return arrays[0] if len(arrays) == 1 else arrays


def _shift_and_mask(model, filters):
    """All filters as one constant of bytes, each shifted by 0 to 7 bits and taken modulo 2."""
    groups = pack.grouped(filters)
    if not groups:
        return
    edit = flatbuffer.Edit(model)
    signs = [np.concatenate([each.signs for each in group]) for group in groups]
    flat = np.concatenate([each.reshape(-1) for each in signs])
    stored = np.packbits(~flat, bitorder="little").view(np.int8)[:, np.newaxis]
    rows = (len(stored), BYTE)
    shifts = edit.constant(np.arange(BYTE, dtype=np.int8)[np.newaxis])
    (x,) = edit.operator("RIGHT_SHIFT", [edit.constant(stored), shifts], [rows], dtype=np.int8)
    two = edit.constant(np.array(2, np.int8))
    (x,) = edit.operator("FLOOR_MOD", [x, two], [rows], dtype=np.int8)
    (x,) = edit.operator("CAST", [x], [rows])
    x = edit.arithmetic("MUL", x, np.float32(-2), rows)
    x = edit.arithmetic("ADD", x, np.float32(1), rows)
    x = edit.reshape(x, (rows[0] * BYTE,))
    sizes = [each.size for each in signs]
    spare = rows[0] * BYTE - len(flat)
    parts = edit.split(x, [(size,) for size in [*sizes, spare] if size])
    for group, each, part in zip(groups, signs, parts, strict=False):
        unpacked = pack.scale(edit, group, edit.reshape(part, each.shape), each.shape)
        pack.connect(edit, group, unpacked, each.shape)
    edit.insert_before([each.operator for each in filters])


def _of_one_quantization(filters):
    """Groups that share a scale; a vector of many scales and zero points costs more than a table."""
    groups = pack.grouped([each for each in filters if each.equal_scale() is not None])
    return groups + [[each] for each in filters if each.equal_scale() is None]


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
    """The signs of a group as integers of few bits, their scales as quantization parameters."""
    width = _BITS[weights]
    signs = np.concatenate([each.signs for each in group])
    equal = group[0].equal_scale()
    scales = np.concatenate([each.scale for each in group]) if equal is None else [equal]
    values = np.where(signs, 1, -1).reshape(-1).astype(np.int8).view(np.uint8) & (2**width - 1)
    per_byte = BYTE // width
    values = np.pad(values, (0, -len(values) % per_byte)).reshape(-1, per_byte)
    stored = (values << np.arange(0, BYTE, width, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    code = getattr(litert_schema.TensorType, weights.upper())
    return edit.quantized_constant(stored, signs.shape, code, np.array(scales, np.float32))
