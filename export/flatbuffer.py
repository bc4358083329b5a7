"""Reads, edits and writes .tflite files through LCE's own schema module."""

import copy

import flatbuffers
import numpy as np
from larq_compute_engine.mlir.python import tflite_schema as schema

_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
}
_TENSOR_TYPES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


def read(tflite):
    """The object form of a flatbuffer, bytes in, `schema.ModelT` out; no list in it is None."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite, 0))
    _fill(model, "operatorCodes", "subgraphs", "buffers")
    for graph in model.subgraphs:
        _fill(graph, "tensors", "inputs", "outputs", "operators")
        for operator in graph.operators:
            _fill(operator, "inputs", "outputs")
        for tensor in graph.tensors:
            _fill(tensor, "shape")
    return model


def _fill(table, *names):
    """Makes lists that a file leaves out empty."""
    for name in names:
        if getattr(table, name) is None:
            setattr(table, name, [])


def write(model):
    """The bytes of a `schema.ModelT`; equal vectors, tensors and options stand in them once."""
    builder = _SharingBuilder(1024)
    tables = {}

    def shared(table):
        return None if table is None else tables.setdefault(_content(table), _Shared(table))

    whole, model = model, copy.copy(model)
    model.subgraphs = [copy.copy(graph) for graph in whole.subgraphs]
    for graph in model.subgraphs:
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        for tensor in graph.tensors:
            tensor.quantization = shared(tensor.quantization)
        graph.tensors = [shared(tensor) for tensor in graph.tensors]
        graph.operators = [copy.copy(operator) for operator in graph.operators]
        for operator in graph.operators:
            operator.builtinOptions = shared(operator.builtinOptions)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _content(table):
    """What tells a table of a flatbuffer from another."""
    if isinstance(table, _Shared):
        return str(id(table))
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
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _BUILTIN_NAMES.get(number, f"BUILTIN_{number}")  # LCE's schema is older than LiteRT's


def constant(model, index):
    """The values of a constant float, int32 or 8-bit tensor; None if it is no such tensor."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    dtype = DTYPES.get(tensor.type)
    if data is None or dtype is None:
        return None
    return np.frombuffer(bytes(data), dtype).reshape(tensor.shape)


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


def stripped(tflite):
    """A file without what a runtime does not need: names, signatures, and what `drop_unused` drops.

    The names of the Keras layers go with it: what reports by layer must read the file before. Bytes
    in and out.
    """
    model = read(tflite)
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
    return write(model)


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


def add_buffer(model, values):
    """Adds the bytes of an array to a model; returns the index of their buffer."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


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
        """A new constant tensor of a float, int32 or 8-bit array; returns its index."""
        return self._tensor(
            values.shape, _TENSOR_TYPES[values.dtype], add_buffer(self._model, values)
        )

    def quantized_constant(self, stored, shape, code, scales):
        """A new constant tensor of integers with scales; returns its index.

        Args:
            stored: The integers as they stand in the file.
            shape: Of the tensor.
            code: Of its type, from a schema's TensorType.
            scales: One for all, or one for each of the first dimension, float32.
        """
        index = self._tensor(shape, code, add_buffer(self._model, stored))
        self._graph.tensors[index].quantization = quantization(scales, np.zeros_like(scales))
        return index

    def reshape(self, tensor, shape):
        """The tensor in another shape."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        return self.operator("RESHAPE", [tensor], [shape], options)[0]

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

    def split(self, tensor, shapes, dtype=np.float32, axis=0):
        """Splits a tensor along a dimension; returns the parts' indices."""
        if len(shapes) == 1:
            return [tensor]
        sizes = [shape[axis] for shape in shapes]
        axis = self.constant(np.array(axis, np.int32))
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


#: Of the bytes of a constant, from the file's beginning, as the schema wants it: processors read
#: words of them in place. The package `flatbuffers` knows nothing of it.
ALIGNMENT = 16


class _SharingBuilder(flatbuffers.Builder):
    """Writes vectors of equal bytes once, unless they hold offsets, which depend on their place.

    Vectors of bytes, as constants are, begin at multiples of `ALIGNMENT`.
    """

    def __init__(self, size):
        super().__init__(size)
        self._vectors = {}
        self._shareable = False

    def StartVector(self, elemSize, numElems, alignment):
        self._shareable = True
        self._kind = (elemSize, alignment)
        self._before = self.Offset()
        started = super().StartVector(elemSize, numElems, ALIGNMENT if elemSize == 1 else alignment)
        self._padded = self.Offset()
        return started

    def PrependUOffsetTRelative(self, off):
        self._shareable = False
        return super().PrependUOffsetTRelative(off)

    def EndVector(self, *args):
        offset = super().EndVector(*args)
        if not self._shareable:
            return offset
        self._shareable = False
        content = bytes(self.Bytes[self.Head() : len(self.Bytes) - self._padded])
        known = self._vectors.setdefault((self._kind, content), offset)
        if known != offset:
            self.head = len(self.Bytes) - self._before
        return known
