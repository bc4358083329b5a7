"""Files for TensorFlow Lite for Microcontrollers (TFLM): 8-bit integers, filters as bits.

TFLM computes neither float filters behind DEQUANTIZE nor INT8 filters with float maps. So a file is
quantized as a whole by TensorFlow's converter, maps and filters, and then changed in two ways.

**Gates.** FMB's GREATER_EQUAL refuses scales above 1, and compares a rounded argument. Instead the
layer before it saturates: with the integer accumulator a, its step u and the bias b,

    a u + b >= 0   <=>   a + floor(b / u) + 1 >= 1,

a scale so large that 1 is beyond the greatest and 0 at the least value makes its output the gate.

**Filters.** Every filter of few values becomes indices of 1 bit (3 bits for `ends="sum3"`) and a
table, which TFLM's own operator DECODE turns into INT8 before the layer; its package `tflite-micro`
writes them. Outputs stay the same to the last bit.

=========  ==========================================================
weights    in the file
=========  ==========================================================
1bit       indices and tables
int4       INT4, two weights a byte; INT8 where a matrix has many scales
int8       INT8
=========  ==========================================================
"""

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as litert_schema

from larq_seresnet.export import anatomy, flatbuffer, pack_litert, tflm
from larq_seresnet.export.inference import parts_with_kernels
from larq_seresnet.layers import FMB, GATE_ACTIVATIONS, SpatialAttention, SqueezeExcite

WEIGHTS = ("1bit", "int4", "int8")
#: Training images that the ranges of maps are taken from.
CALIBRATION_IMAGES = 500
#: What filters of few values are made of: one bit of the greatest alone, `SumOfSigns` of all.
LEVELS, TOP, WIDTH = (1, 3, 5, 7), 7, 3
#: Bytes before the tables of TFLM's operator DECODE.
HEADER = 16
_GATE = {0.0: (1 / 255, -128), -1.0: (1 / 127, 0)}
#: TFLM multiplies the sums before a gate by 2**8, in 32 bits.
_OVERFLOW = 2 ** (31 - 8)


def is_for(model):
    """Whether TFLM's package is there, and computes a network well."""
    return tflm.is_installed() and _problem(model) is None


def _problem(model):
    """Why TFLM does not compute a SEResNet14 well, and what is nearest; None if it does."""
    if model.inputs[0].dtype != "float32":
        return (
            f"images in {model.inputs[0].dtype.name}: what a network makes of them would be in 8 "
            "bits, too. Nearest is one of what preprocess_input returns, whose file takes int8"
        )
    if any(getattr(layer, "input_quantizer", None) for layer in model.layers):
        return (
            "1-bit activations: signs of 8-bit maps differ from those of the network too often. "
            "Nearest is precision 'w1'"
        )
    signs = any(
        isinstance(layer, FMB) and GATE_ACTIVATIONS[layer.activation].closed
        for layer in model.layers
    )
    parts = [
        part
        for layer in model.layers
        if isinstance(layer, (SqueezeExcite, SpatialAttention))
        for part in parts_with_kernels(layer)[-1:]
    ]
    if signs and any(part.kernel_quantizer is None for part in parts):
        return (
            "gates of -1 and 1 whose attention is not 1-bit. Nearest is activation 'sigmoid', or "
            "precision 'w1' with attention 'se'"
        )
    return None


def convert(model, images):
    """Quantizes a float32 SEResNet14 as a whole.

    Args:
        model: From `SEResNet14`, float32, "w1" or "float32".
        images: Training images that tell the ranges, as the model takes them, float32 (N, H, W, C).

    Returns:
        A file's bytes: INT8 filters and maps, int8 input and output, gates that saturate.

    Raises:
        ValueError: If it takes other than float32, has 1-bit activations, or gates of -1 and 1
            whose attention is not 1-bit.
    """
    problem = _problem(model)
    if problem:
        raise ValueError(f"--runtime tflm is not for {problem}.")
    model = flatbuffer.read(pack_litert.full_int8(model, images, integer_ends=True))
    _part_constants(model)
    for operator in anatomy.convolutions(model):
        _small_levels(model, operator)
        if flatbuffer.operator_name(model, operator) == "FULLY_CONNECTED":
            _one_scale(model, operator)
    for operator in model.subgraphs[0].operators[:]:
        if flatbuffer.operator_name(model, operator) == "GREATER_EQUAL":
            _saturate(model, operator)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model)


def _part_constants(model):
    """Gives layers whose constants are equal, so one tensor, each its own: scales will differ."""
    tensors, seen = model.subgraphs[0].tensors, set()
    for operator in anatomy.convolutions(model):
        inputs = list(operator.inputs)
        for at, index in enumerate(inputs[1:], 1):
            if index in seen:
                tensors.append(copy.deepcopy(tensors[index]))
                inputs[at] = len(tensors) - 1
            seen.update({index} - {-1})
        operator.inputs = inputs


def _small_levels(model, operator):
    """Makes a filter of few values one of whole numbers up to 7, which take 4 bits, or 1 or 3.

    The converter rounds them to 127ths: +-127 for one bit, 18, 54, 91 and 127 for `SumOfSigns`.
    """
    values = flatbuffer.constant(model, operator.inputs[1])
    if not np.isin(np.abs(values), np.round(np.array(LEVELS) * 127 / TOP)).all():
        return
    tensors = model.subgraphs[0].tensors
    coarser = 127 / TOP
    scales = tensors[operator.inputs[1]].quantization.scale * coarser
    _set(model, operator.inputs[1], np.round(values / coarser).astype(np.int8), scales)
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = flatbuffer.constant(model, operator.inputs[2])
        of_bias = tensors[operator.inputs[2]].quantization.scale * coarser
        _set(model, operator.inputs[2], np.round(bias / coarser).astype(np.int32), of_bias)


def _one_scale(model, operator):
    """Says a matrix's scale once where all its rows have the same, as TFLM's INT4 and tables want.

    A bias is left with its values: each is in steps of that scale, too.
    """
    for index in operator.inputs[1:]:
        tensor = model.subgraphs[0].tensors[index] if index >= 0 else None
        if tensor is not None and np.ptp(tensor.quantization.scale) == 0:
            tensor.quantization = flatbuffer.quantization(tensor.quantization.scale[:1], [0])


def _saturate(model, threshold):
    """Makes the layer before a gate's threshold give the gate, and takes the threshold out."""
    graph = model.subgraphs[0]
    layer = anatomy.producer(graph, threshold.inputs[0])
    between, product = [threshold], threshold
    while flatbuffer.operator_name(model, product) != "MUL":
        (product,) = anatomy.consumers(graph, product.outputs[0])
        between.append(product)
    between.remove(product)
    gate, argument = between[-1].outputs[0], layer.outputs[0]
    signs = any(flatbuffer.operator_name(model, each) == "SELECT_V2" for each in between)
    _make_gate(model, layer, -1.0 if signs else 0.0)
    tensors = graph.tensors
    (gated,) = (each for each in product.inputs if each != gate)
    product.inputs = [argument if each == gate else each for each in product.inputs]
    readers = {
        flatbuffer.operator_name(model, each)
        for each in anatomy.consumers(graph, product.outputs[0])
    }
    if not signs and readers == {"ADD"}:  # what is let through need not be rounded again
        tensors[product.outputs[0]].quantization = tensors[gated].quantization
    graph.operators = [
        each for each in graph.operators if all(each is not gone for gone in between)
    ]


def _make_gate(model, layer, closed):
    tensors = model.subgraphs[0].tensors
    values = flatbuffer.constant(model, layer.inputs[1])
    two_valued = len(np.unique(np.abs(values))) == 1
    unit = int(np.abs(values).max()) if two_valued else 1  # all sums are multiples of it
    (of_input,) = tensors[layer.inputs[0]].quantization.scale
    steps = of_input * tensors[layer.inputs[1]].quantization.scale.astype(np.float64) * unit
    bias = np.zeros(len(values))
    if len(layer.inputs) > 2 and layer.inputs[2] >= 0:
        of_bias = tensors[layer.inputs[2]].quantization.scale
        bias = flatbuffer.constant(model, layer.inputs[2]) * of_bias.astype(np.float64)
    if two_valued and 2 * 256 * unit * values[0].size >= _OVERFLOW:
        values, unit = values // unit, 1
        _set(model, layer.inputs[1], values, tensors[layer.inputs[1]].quantization.scale)
    sums = 256 * np.abs(values.astype(int)).reshape(len(values), -1).sum(axis=1)
    reach = sums // unit + 1  # further, and the gate never moves
    whole = np.clip(np.floor(bias / steps), -reach, reach)
    offset = (whole * unit + max(1, unit // 2)).astype(np.int32)
    if (np.abs(offset) + sums).max() >= _OVERFLOW:
        raise ValueError(
            f"TFLM computes attention in 32 bits, too few for {values[0].size} squeezed channels: "
            f"a greater `reduction_ratio` leaves fewer."
        )
    edit = flatbuffer.Edit(model)
    layer.inputs = [*layer.inputs[:2], edit.constant(offset)]
    scales = np.full(len(tensors[layer.inputs[1]].quantization.scale), 1 / of_input, np.float32)
    tensors[layer.inputs[1]].quantization = flatbuffer.quantization(scales, np.zeros_like(scales))
    tensors[layer.inputs[2]].quantization = flatbuffer.quantization(
        np.ones_like(scales), np.zeros_like(scales)
    )
    scale, zero_point = _GATE[closed]
    tensors[layer.outputs[0]].quantization = flatbuffer.quantization([scale], [zero_point])
    if closed:  # not to -128 / 127
        layer.builtinOptions.fusedActivationFunction = (
            flatbuffer.schema.ActivationFunctionType.RELU_N1_TO_1
        )


def store(tflite, weights):
    """Stores the filters of a quantized file.

    Args:
        tflite: Bytes from `convert`.
        weights: One of `WEIGHTS`.

    Returns:
        The new file's bytes, and the layers whose filters have other values than `LEVELS`. These
        stay INT8, and so do the least matrices with "1bit" and, with "int4", that of the logits.
    """
    model = flatbuffer.read(tflite)
    widths, left_alone = {}, []
    for operator in anatomy.convolutions(model):
        values = flatbuffer.constant(model, operator.inputs[1])
        kinds = len(np.unique(np.abs(values)))
        if kinds == 1 or np.isin(np.abs(values), LEVELS).all():
            widths[operator.inputs[1]] = 1 if kinds == 1 else WIDTH
        else:
            left_alone.append(anatomy.layer_name(model.subgraphs[0], operator))
    if weights == "1bit":
        widths = {index: width for index, width in widths.items() if _pays(model, index, width)}
        tflite = _in_tables(tflite, model, widths) if widths else tflite
    elif weights == "int4":
        for index in widths:
            _in_four_bits(model, index)
        tflite = flatbuffer.write(model)
    return _slim(tflite), left_alone


def _pays(model, index, width):
    """Whether indices and a table are smaller than INT8: not for the least matrices."""
    tensor = model.subgraphs[0].tensors[index]
    size = anatomy.tensor_bytes(model, index)
    tables = len(tensor.quantization.scale) * 2**width
    return size * width / pack_litert.BYTE + HEADER + tables < size


def _in_tables(tflite, model, widths):
    tflm.check_installed()
    from tflite_micro import compression
    from tflite_micro.tensorflow.lite.micro.compression import spec

    def method(index, width):
        # with one table for all, a tensor of many scales is decoded wrongly, without a word
        many = len(model.subgraphs[0].tensors[index].quantization.scale) > 1
        mode = spec.PerChannel(0) if many else spec.PerTensor()
        return spec.Tensor(0, int(index), [spec.LookUpTableCompression(width, mode)])

    return bytes(compression.compress(tflite, [method(*each) for each in widths.items()]))


def _in_four_bits(model, index):
    tensor = model.subgraphs[0].tensors[index]
    many = len(tensor.quantization.scale) > 1
    if many and len(tensor.shape) == 2:
        return  # TFLM refuses a matrix of many scales
    values = flatbuffer.constant(model, index).reshape(-1).view(np.uint8) & 15
    values = np.pad(values, (0, len(values) % 2)).reshape(-1, 2)
    stored = (values[:, 0] | values[:, 1] << 4).astype(np.uint8)
    _set(model, index, stored, tensor.quantization.scale)
    tensor.type = litert_schema.TensorType.INT4


def _slim(tflite):
    """Drops what TFLM reads nowhere: scales of biases of convolutions, zeros said many times."""
    model = flatbuffer.read(tflite)
    tensors = model.subgraphs[0].tensors
    for operator in anatomy.convolutions(model):
        if flatbuffer.operator_name(model, operator) == "CONV_2D" and len(operator.inputs) > 2:
            tensors[operator.inputs[2]].quantization = None
    for tensor in tensors:
        parameters = tensor.quantization
        if parameters is not None and parameters.zeroPoint is not None:
            if not (np.any(parameters.zeroPoint) or parameters.quantizedDimension):
                tensor.quantization = flatbuffer.quantization(parameters.scale, [0])
    return flatbuffer.write(model)


def unpacked(tflite):
    """The INT8 graph of a file whose filters are in tables or INT4, decoded here, not by TFLM.

    Args:
        tflite: Bytes of a file that `store` wrote, or that was stripped since.

    Returns:
        A file's bytes.

    Raises:
        ValueError: If its tables are of another form.
    """
    model = flatbuffer.read(tflite)
    graph = model.subgraphs[0]
    kept = []
    for operator in graph.operators:
        if flatbuffer.operator_name(model, operator) != tflm.DECODE:
            kept.append(operator)
            continue
        pairs = zip(operator.inputs[::2], operator.inputs[1::2], operator.outputs, strict=True)
        for encoded, ancillary, decoded in pairs:
            try:
                values = _decoded(model, encoded, ancillary, graph.tensors[decoded].shape)
            except Exception as error:  # of NumPy, from numbers in the file
                raise ValueError(f"a filter's table is of an unknown form ({error!r}).") from error
            _set(model, decoded, values, graph.tensors[decoded].quantization.scale)
    graph.operators = kept
    for index, tensor in enumerate(graph.tensors):
        if tensor.type == litert_schema.TensorType.INT4:
            _in_eight_bits(model, index)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model)


def _decoded(model, encoded, ancillary, shape):
    """Values from indices, most significant bit first, and tables behind a header."""
    header, table = np.split(flatbuffer.constant(model, ancillary), [HEADER])
    width, stride = int(header[5]) & 7, int(header[6])
    bits = np.unpackbits(flatbuffer.constant(model, encoded))[: np.prod(shape) * width]
    places = bits.reshape(-1, width) @ (1 << np.arange(width)[::-1])
    tables = table.view(np.int8).reshape(-1, stride)
    channels = np.arange(len(places)) * len(tables) // len(places)  # along the first axis, or one
    return tables[channels, places].reshape(shape)


def _in_eight_bits(model, index):
    tensor = model.subgraphs[0].tensors[index]
    stored = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    nibbles = np.stack([stored << 4, stored & 240], axis=1).reshape(-1)[: np.prod(tensor.shape)]
    _set(model, index, nibbles.view(np.int8) >> 4, tensor.quantization.scale)
    tensor.type = flatbuffer.schema.TensorType.INT8


def _set(model, index, values, scales):
    """Gives a constant tensor other values and scales; other tensors keep the buffer they share."""
    tensor = model.subgraphs[0].tensors[index]
    tensor.buffer = flatbuffer.add_buffer(model, values)
    tensor.quantization = flatbuffer.quantization(scales, np.zeros(len(scales)))
