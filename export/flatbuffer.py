"""Reads, edits and writes .tflite files through LCE's own schema module.

LiteRT's is asked for the names of types alone: LCE's knows none below 4 bits.
"""

import collections
import copy
import dataclasses

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as litert_schema
from flatbuffers import flexbuffers
from larq_compute_engine.mlir.python import tflite_schema as schema

_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
}
_SIZES = {**_DTYPES, schema.TensorType.BOOL: np.bool_}
MAC_KINDS = ("binary", "int8", "float32")
_TYPE_NAMES = {
    code: name for name, code in vars(litert_schema.TensorType).items() if name.isupper()
}
_TENSOR_TYPES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


def read(tflite):
    """The object form of a flatbuffer, bytes in, `schema.ModelT` out."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite, 0))


def write(model):
    """The bytes of a `schema.ModelT`; equal vectors, tensors and options stand in them once."""
    builder = _SharingBuilder(1024)
    tables = {}

    def shared(table):
        return None if table is None else tables.setdefault(_content(table), _Shared(table))

    whole, model = model, copy.copy(model)
    model.subgraphs = [copy.copy(graph) for graph in whole.subgraphs]
    for graph in model.subgraphs:
        graph.tensors = [shared(tensor) for tensor in graph.tensors]
        graph.operators = [copy.copy(operator) for operator in graph.operators]
        for operator in graph.operators:
            operator.builtinOptions = shared(operator.builtinOptions)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _content(table):
    """What tells a table of a flatbuffer from another."""
    fields = {
        name: _content(value) if hasattr(value, "Pack") else np.asarray(value).tolist()
        for name, value in vars(table).items()
    }
    return f"{type(table).__name__} {fields}"


class _Shared:
    """A table that is written once, wherever it is referred to."""

    def __init__(self, table):
        self._table = table
        self._offset = None

    def Pack(self, builder):
        if self._offset is None:
            self._offset = self._table.Pack(builder)
        return self._offset


def operator_name(model, operator):
    """Such as "CONV_2D", or "LceBconv2d" for LCE's own."""
    return _code_name(model.operatorCodes[operator.opcodeIndex])


def _code_name(code):
    if code.customCode:
        return code.customCode.decode()
    return _BUILTIN_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


@dataclasses.dataclass(frozen=True)
class TensorFacts:
    """What a graph takes or gives: a shape, a numpy type, and what its integers stand for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 1.0
    zero_point: int = 0

    def real(self, values):
        """Integers as the real numbers that they stand for; float32 as it is."""
        if self.dtype == np.float32:
            return values
        return (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def interface(model):
    """What a model's graph takes and gives: two `TensorFacts`."""
    graph = model.subgraphs[0]
    return tuple(_facts(graph.tensors[indices[0]]) for indices in (graph.inputs, graph.outputs))


def _facts(tensor):
    shape, dtype = tuple(map(int, tensor.shape)), np.dtype(_DTYPES[tensor.type])
    if tensor.quantization is None or tensor.quantization.scale is None:
        return TensorFacts(shape, dtype)
    parameters = tensor.quantization
    return TensorFacts(shape, dtype, float(parameters.scale[0]), int(parameters.zeroPoint[0]))


def tensor_types(model):
    """Names of the types that a model's tensors have, such as "INT2"."""
    return {_TYPE_NAMES[tensor.type] for tensor in model.subgraphs[0].tensors}


def count_operators(model):
    """How often each operator occurs, most frequent first."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    return dict(collections.Counter(operator_name(model, each) for each in operators).most_common())


def constant(model, index):
    """The values of a constant float32, int32 or 8-bit tensor; None if it is no such tensor."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    dtype = _DTYPES.get(tensor.type)
    if data is None or dtype is None:
        return None
    return np.frombuffer(bytes(data), dtype).reshape(tensor.shape)


def convolutions(model):
    """The operators that have filters: convolutions, binary ones too, and fully connected ones."""
    names = ("CONV_2D", "FULLY_CONNECTED", "LceBconv2d")
    return [each for each in model.subgraphs[0].operators if operator_name(model, each) in names]


def filter_shapes(model):
    """How often each filter's shape occurs: (O, H, W) of a convolution, (O, I) of a matrix."""
    tensors = model.subgraphs[0].tensors
    shapes = [tuple(map(int, tensors[each.inputs[1]].shape)) for each in convolutions(model)]
    return collections.Counter(shape[:3] for shape in shapes)


def takes_zero_and_one(model, operator):
    """Whether a convolution's input is a sign, as 0 and 1, that was padded."""
    producers = [
        each for each in model.subgraphs[0].operators if operator.inputs[0] in each.outputs
    ]
    return any(operator_name(model, each) == "PADV2" for each in producers)


def hybrid_operators(model):
    """Those that read INT8 filters and float input, which the runtime rounds to 8 bits."""
    tensors = model.subgraphs[0].tensors
    return [
        each
        for each in convolutions(model)
        if tensors[each.inputs[1]].type == schema.TensorType.INT8
        and tensors[each.inputs[0]].type == schema.TensorType.FLOAT32
        and not takes_zero_and_one(model, each)
    ]


def bytes_by_part(model, size):
    """What the bytes of a file are: a dict with "bytes", "filters", "scales" and "metadata".

    Filters are the bits or numbers of kernels themselves, scales all other numbers: of BatchNorm,
    biases, quantization.

    Args:
        model: From `read`.
        size: Of the file.
    """
    tensors = model.subgraphs[0].tensors
    unpacked = {index: each for each in unpacking(model) for index in each.outputs}

    def filter_data(index):
        while index in unpacked:
            split = operator_name(model, unpacked[index]) == "SPLIT"
            index = unpacked[index].inputs[1 if split else 0]
        return index

    of_filters = {tensors[filter_data(each.inputs[1])].buffer for each in convolutions(model)}
    of_numbers = {tensor.buffer for tensor in tensors} - of_filters
    filters, scales = (
        sum(len(data) for each in buffers if (data := model.buffers[each].data) is not None)
        for buffers in (of_filters, of_numbers)
    )
    for tensor in tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            scales += 4 * len(tensor.quantization.scale)
    return {
        "bytes": size,
        "filters": filters,
        "scales": scales,
        "metadata": size - filters - scales,
    }


def peak_activations(model):
    """Bytes of the tensors without constant values that are alive at once, at most."""
    graph = model.subgraphs[0]
    born = dict.fromkeys(graph.inputs, 0)
    dies = dict.fromkeys(graph.outputs, len(graph.operators))
    for turn, operator in enumerate(graph.operators):
        born.update(dict.fromkeys(operator.outputs, turn))
        dies.update({each: max(turn, dies.get(each, 0)) for each in operator.inputs})
    alive = np.zeros(len(graph.operators) + 1, np.int64)
    for index, first in born.items():
        tensor = graph.tensors[index]
        size = int(np.prod(tensor.shape)) * np.dtype(_SIZES[tensor.type]).itemsize
        alive[first : dies.get(index, first) + 1] += size
    return int(alive.max())


def macs(model):
    """Multiply-accumulates of one image: a dict from `MAC_KINDS`, what is multiplied."""
    tensors = model.subgraphs[0].tensors
    counts = dict.fromkeys(MAC_KINDS, 0)
    for operator in convolutions(model):
        kernel = tensors[operator.inputs[1]]
        positions = int(np.prod(tensors[operator.outputs[0]].shape[:-1]))
        size = int(np.prod(kernel.shape))
        if operator_name(model, operator) == "LceBconv2d":
            channels = flexbuffers.Loads(bytes(operator.customOptions))["channels_in"]
            size = int(np.prod(kernel.shape[:-1])) * channels
            kind = "binary"
        else:
            kind = "int8" if kernel.type == schema.TensorType.INT8 else "float32"
        counts[kind] += positions * size
    return counts


def float_activations(model):
    """Float32 tensors that depend on the image, without the graph's outputs."""
    graph = model.subgraphs[0]
    known = {id(operator) for operator in unpacking(model)}
    return [
        index
        for operator in graph.operators
        if id(operator) not in known
        for index in operator.outputs
        if graph.tensors[index].type == schema.TensorType.FLOAT32 and index not in graph.outputs
    ]


def unpacking(model):
    """The operators that depend on constants alone: what unpacks filters before they are used."""
    graph = model.subgraphs[0]
    known = {
        index
        for index, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None
    } | {-1}
    found = []
    for operator in graph.operators:
        if known.issuperset(operator.inputs):
            known.update(operator.outputs)
            found.append(operator)
    return found


def layer_path(graph, operator):
    """The path of the Keras layer that an operator's output is named after: model, layer, ...

    Where the converter fused several, that is the last of them.
    """
    return graph.tensors[operator.outputs[0]].name.decode().split(";")[0].split("/")


def bytes_by_layer(model, layer_names):
    """Bytes of constants that the operators of each Keras layer read, shared ones counted once.

    Args:
        model: From `read`.
        layer_names: Of the Keras model, in order; the last one owns the output, which the converter
            names after nothing.

    Returns:
        A dict from layer name to bytes, without the layers that have none.
    """
    graph = model.subgraphs[0]
    total = dict.fromkeys(layer_names, 0)
    seen = set()
    for operator in graph.operators:
        path = layer_path(graph, operator)
        layer = next((part for part in path if part in total), layer_names[-1])
        for index in operator.inputs:
            buffer = graph.tensors[index].buffer if index >= 0 else 0
            data = model.buffers[buffer].data
            if data is not None and buffer not in seen:
                seen.add(buffer)
                total[layer] += len(data)
    return {layer: size for layer, size in total.items() if size}


def drop_unused(model):
    """Drops tensors, constants and operator codes that nothing refers to; keeps equal ones once."""
    graph = model.subgraphs[0]
    used = {index for each in graph.operators for index in [*each.inputs, *each.outputs]}
    kept = sorted((used | {*graph.inputs, *graph.outputs}) - {-1})
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in kept]
    graph.inputs = [place[index] for index in graph.inputs]
    graph.outputs = [place[index] for index in graph.outputs]
    for signature in model.signatureDefs or []:
        for each in [*signature.inputs, *signature.outputs]:
            each.tensorIndex = place[each.tensorIndex]
    codes = sorted({each.opcodeIndex for each in graph.operators})
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    for each in graph.operators:
        each.inputs = [place[index] for index in each.inputs]
        each.outputs = [place[index] for index in each.outputs]
        each.opcodeIndex = codes.index(each.opcodeIndex)
    model.metadata = model.metadataBuffer = None  # the least runtime version, of other operators
    _share_buffers(model)


def strip(model):
    """Drops what a runtime does not need: names, signatures, and what `drop_unused` drops.

    The names of the Keras layers go with it: what reports by layer must read the file before.
    """
    drop_unused(model)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.name = tensor.shapeSignature = None
        tensor.hasRank = False
        if tensor.quantization is not None and tensor.quantization.scale is None:
            tensor.quantization = None  # the converter writes empty ones
    for operator in graph.operators:
        if operator.customOptions is not None and not len(operator.customOptions):
            operator.customOptions = None
    graph.name = model.description = model.signatureDefs = None


def _share_buffers(model):
    """Keeps each constant once, and one empty buffer for all tensors without any."""
    places = {b"": 0}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        tensor.buffer = places.setdefault(b"" if data is None else bytes(data), len(places))
    model.buffers = [schema.BufferT() for _ in places]
    for data, place in places.items():
        if data:
            model.buffers[place].data = np.frombuffer(data, np.uint8)


def quantization(scales, zero_points):
    """Quantization parameters: a real value is scale times (integer minus zero point)."""
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.asarray(scales, np.float32)
    parameters.zeroPoint = np.asarray(zero_points, np.int64)
    return parameters


class Edit:
    """Operators and tensors that are to be added to a graph.

    Args:
        model: From `read`; tensors and buffers are added at once, operators by `insert_before`.
    """

    def __init__(self, model):
        self._model = model
        self._graph = model.subgraphs[0]
        self._operators = []

    def constant(self, values):
        """A new constant tensor of a float32, int32 or 8-bit array; returns its index."""
        return self._tensor(values.shape, _TENSOR_TYPES[values.dtype], self._buffer(values))

    def quantized_constant(self, stored, shape, code, scales):
        """A new constant tensor of integers with scales; returns its index.

        Args:
            stored: The integers as they stand in the file.
            shape: Of the tensor.
            code: Of its type, from a schema's TensorType.
            scales: One for all, or one for each of the first dimension, float32.
        """
        index = self._tensor(shape, code, self._buffer(stored))
        self._graph.tensors[index].quantization = quantization(scales, np.zeros_like(scales))
        return index

    def reshape(self, tensor, shape):
        """The tensor in another shape."""
        new_shape = self.constant(np.array(shape, np.int32))
        return self.operator("RESHAPE", [tensor, new_shape], [shape])[0]

    def arithmetic(self, name, tensor, constant, shape):
        """ADD, SUB, MUL or DIV of a tensor of `shape` and a float32 array that broadcasts to it."""
        options = getattr(schema, f"{name.capitalize()}OptionsT")()
        return self.operator(name, [tensor, self.constant(constant)], [shape], options)[0]

    def operator(self, name, inputs, shapes, options=None, dtype=np.float32):
        """A new operator with outputs of `shapes`; returns their indices.

        Args:
            name: Such as "MUL", or "LceDequantize" for LCE's own.
            inputs: Indices of tensors.
            shapes: One an output.
            options: Its builtin options, a `schema` object such as MulOptionsT.
            dtype: Of the outputs.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs = inputs
        code = _TENSOR_TYPES[np.dtype(dtype)]
        operator.outputs = [self._tensor(shape, code) for shape in shapes]
        if options is not None:
            operator.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self._operators.append(operator)
        return operator.outputs

    def split(self, tensor, shapes, dtype=np.float32):
        """Splits a tensor along its first dimension; returns the parts' indices."""
        axis = self.constant(np.array(0, np.int32))
        sizes = [shape[0] for shape in shapes]
        if len(set(sizes)) == 1:
            options = schema.SplitOptionsT()
            options.numSplits = len(shapes)
            return self.operator("SPLIT", [axis, tensor], shapes, options, dtype)
        options = schema.SplitVOptionsT()
        options.numSplits = len(shapes)
        inputs = [tensor, self.constant(np.array(sizes, np.int32)), axis]
        return self.operator("SPLIT_V", inputs, shapes, options, dtype)

    def insert_before(self, operators):
        """Puts the new operators into the graph, before the first of `operators`."""
        existing = [id(operator) for operator in self._graph.operators]
        at = min(existing.index(id(operator)) for operator in operators)
        self._graph.operators[at:at] = self._operators

    def append(self):
        """Puts the new operators into the graph, after all others."""
        self._graph.operators += self._operators

    def _buffer(self, values):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def tensor(self, shape, dtype):
        """A new tensor without values; returns its index."""
        return self._tensor(shape, _TENSOR_TYPES[np.dtype(dtype)])

    def _tensor(self, shape, code, buffer=0):
        tensor = schema.TensorT()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = code
        tensor.buffer = buffer
        tensor.name = b""
        tensor.hasRank = True
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, name):
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if _code_name(code) == name:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name, schema.BuiltinOperator.CUSTOM)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        if code.builtinCode == schema.BuiltinOperator.CUSTOM:
            code.customCode = name.encode()
        codes.append(code)
        return len(codes) - 1


class _SharingBuilder(flatbuffers.Builder):
    """Writes vectors of equal bytes once, unless they hold offsets, which depend on their place."""

    def __init__(self, size):
        super().__init__(size)
        self._vectors = {}
        self._shareable = False

    def StartVector(self, elemSize, numElems, alignment):
        self._shareable = True
        self._kind = (elemSize, alignment)
        self._before = self.Offset()
        return super().StartVector(elemSize, numElems, alignment)

    def PrependUOffsetTRelative(self, off):
        self._shareable = False
        return super().PrependUOffsetTRelative(off)

    def EndVector(self, *args):
        offset = super().EndVector(*args)
        if not self._shareable:
            return offset
        self._shareable = False
        start = len(self.Bytes) - self._before
        content = bytes(self.Bytes[self.Head() : start])
        known = self._vectors.setdefault((self._kind, content), offset)
        if known != offset:
            self.head = start
        return known
