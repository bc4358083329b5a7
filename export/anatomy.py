"""What a .tflite file consists of: its interface, operators, filters, bytes and work."""

import collections
import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as litert_schema
from flatbuffers import flexbuffers
from larq_compute_engine.mlir.python import tflite_schema as schema

from larq_seresnet.export.flatbuffer import DTYPES, operator_name

#: What is multiplied: signs, INT8 filters, float filters.
MAC_KINDS = ("binary", "int8", "float32")
_SIZES = {
    **DTYPES,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT64: np.int64,
}
# LCE's schema knows no type below 4 bits.
_TYPE_NAMES = {
    code: name for name, code in vars(litert_schema.TensorType).items() if name.isupper()
}


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

    def stored(self, values):
        """Real numbers as the integers that stand for them, at most those there are; see `real`."""
        if self.dtype == np.float32:
            return values
        limits = np.iinfo(self.dtype)
        whole = np.round(values / np.float32(self.scale)) + self.zero_point
        return np.clip(whole, limits.min, limits.max).astype(self.dtype)


def check(model):
    """Checks that a model computes one tensor of one, and that what is said here can be said of it.

    A whole flatbuffer, with all tables in place, may still refer to what is not there.

    Args:
        model: From `flatbuffer.read`.

    Raises:
        ValueError: If not; says what is wrong.
    """
    for graph in model.subgraphs:
        _check_indices("buffer", model.buffers, [each.buffer for each in graph.tensors])
        _check_indices("code", model.operatorCodes, [each.opcodeIndex for each in graph.operators])
        _check_indices("tensor", graph.tensors, [*graph.inputs, *graph.outputs])
        for each in graph.operators:
            _check_indices("tensor", graph.tensors, each.inputs, least=-1)
            _check_indices("tensor", graph.tensors, each.outputs)
    ends = [(len(graph.inputs), len(graph.outputs)) for graph in model.subgraphs[:1]]
    if ends != [(1, 1)]:
        raise ValueError(f"it must take one tensor and give one, it takes and gives {ends}")
    try:
        interface(model)
    except LookupError as error:
        raise ValueError("it takes or gives other than float32 or 8-bit integers") from error
    try:
        for question in (count_operators, filter_shapes, hybrid_operators, float_activations, macs):
            question(model)
        bytes_by_part(model, 0)
        peak_activations(model)
    except Exception as error:  # from custom options and shapes, which may be anything
        raise ValueError(f"it has an operator of an unknown form ({error!r})") from error


def _check_indices(kind, items, indices, least=0):
    for index in indices:
        if not least <= index < len(items):
            raise ValueError(f"it refers to {kind} {index} and holds {len(items)}")


def interface(model):
    """What a model's graph takes and gives: two `TensorFacts`."""
    graph = model.subgraphs[0]
    return tuple(facts(graph.tensors[indices[0]]) for indices in (graph.inputs, graph.outputs))


def facts(tensor):
    """A tensor's `TensorFacts`."""
    shape, dtype = tuple(map(int, tensor.shape)), np.dtype(DTYPES[tensor.type])
    parameters = tensor.quantization
    if parameters is None or parameters.scale is None:
        return TensorFacts(shape, dtype)
    zero_point = 0 if parameters.zeroPoint is None else int(parameters.zeroPoint[0])
    return TensorFacts(shape, dtype, float(parameters.scale[0]), zero_point)


def tensor_types(model):
    """Names of the types that a model's tensors have, such as "INT2"."""
    return {_TYPE_NAMES.get(tensor.type) for tensor in model.subgraphs[0].tensors}


def count_operators(model):
    """How often each operator occurs, most frequent first."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    return dict(collections.Counter(operator_name(model, each) for each in operators).most_common())


#: Built-in operators of this project's files that multiply by a filter.
WITH_FILTERS = ("CONV_2D", "FULLY_CONNECTED")


def convolutions(model):
    """The operators that have filters: convolutions, binary ones too, and fully connected ones."""
    names = (*WITH_FILTERS, "LceBconv2d")
    return [each for each in model.subgraphs[0].operators if operator_name(model, each) in names]


def multiplying(model):
    """Likewise, with the depthwise ones that others' networks have."""
    depthwise = [
        each
        for each in model.subgraphs[0].operators
        if operator_name(model, each) == "DEPTHWISE_CONV_2D"
    ]
    return convolutions(model) + depthwise


def filter_shapes(model):
    """How often each filter's shape occurs: (O, H, W) of a convolution, (O, I) of a matrix."""
    tensors = model.subgraphs[0].tensors
    shapes = [tuple(map(int, tensors[each.inputs[1]].shape)) for each in convolutions(model)]
    return collections.Counter(shape[:3] for shape in shapes)


def takes_zero_and_one(model, operator):
    """Whether a convolution's input is a sign, as 0 and 1, that was padded."""
    before = producer(model.subgraphs[0], operator.inputs[0])
    return before is not None and operator_name(model, before) == "PADV2"


def producer(graph, tensor):
    """The operator that gives a tensor; None if none does."""
    return next((each for each in graph.operators if tensor in each.outputs), None)


def consumers(graph, tensor):
    """The operators that take a tensor."""
    return [each for each in graph.operators if tensor in each.inputs]


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
        model: From `flatbuffer.read`.
        size: Of the file.
    """
    tensors = model.subgraphs[0].tensors
    unpackers = unpacking(model)

    def filter_data(index):
        for operator in reversed(unpackers):
            if index in operator.outputs:
                split = operator_name(model, operator) == "SPLIT"
                index = operator.inputs[1 if split else 0]
        return index

    of_filters = {tensors[filter_data(each.inputs[1])].buffer for each in multiplying(model)}
    of_numbers = {tensor.buffer for tensor in tensors} - of_filters
    filters, scales = (
        sum(len(data) for each in buffers if (data := model.buffers[each].data) is not None)
        for buffers in (of_filters, of_numbers)
    )
    scales += sum(4 * _scales(tensor) for tensor in tensors)
    return {
        "bytes": size,
        "filters": filters,
        "scales": scales,
        "metadata": size - filters - scales,
    }


def peak_activations(model):
    """Bytes of the tensors without constant values that are alive at once, at most.

    What DEQUANTIZE makes of a constant lives on: the runtime keeps it for the next image.
    """
    operators = model.subgraphs[0].operators
    lives = lifetimes(model)
    for operator in model.subgraphs[0].operators:
        if operator_name(model, operator) == "DEQUANTIZE" and operator.inputs[0] not in lives:
            lives.update(dict.fromkeys(operator.outputs, (0, len(operators))))
    alive = np.zeros(len(operators) + 1, np.int64)
    for index, (first, last) in lives.items():
        alive[first : last + 1] += tensor_bytes(model, index)
    return int(alive.max())


def lifetimes(model):
    """From the index of each tensor without constant values to the operators it lives from and to.

    What is given lives up to one operator beyond the last.
    """
    graph = model.subgraphs[0]
    lives = {index: (0, 0) for index in graph.inputs}
    for turn, operator in enumerate(graph.operators):
        lives.update({index: (turn, turn) for index in operator.outputs})
        lives.update({each: (lives[each][0], turn) for each in operator.inputs if each in lives})
    lives.update({index: (lives[index][0], len(graph.operators)) for index in graph.outputs})
    return lives


def tensor_bytes(model, index):
    """Bytes of a tensor's values in memory."""
    tensor = model.subgraphs[0].tensors[index]
    return int(np.prod(tensor.shape)) * np.dtype(_SIZES[tensor.type]).itemsize


def channels_in(operator):
    """The input channels of a binary convolution, which its packed filter does not tell."""
    return flexbuffers.Loads(bytes(operator.customOptions))["channels_in"]


def _scales(tensor):
    """How many scales a tensor is quantized by."""
    parameters = tensor.quantization
    return 0 if parameters is None or parameters.scale is None else len(parameters.scale)


def macs(model):
    """Multiply-accumulates of one image: a dict from `MAC_KINDS`, what is multiplied."""
    tensors = model.subgraphs[0].tensors
    counts = dict.fromkeys(MAC_KINDS, 0)
    for operator in multiplying(model):
        kernel = tensors[operator.inputs[1]]
        positions = int(np.prod(tensors[operator.outputs[0]].shape[:-1]))
        size = int(np.prod(kernel.shape))
        if operator_name(model, operator) == "LceBconv2d":
            channels = channels_in(operator)
            size = int(np.prod(kernel.shape[:-1])) * channels
            kind = "binary"
        else:
            types = {kernel.type, tensors[operator.inputs[0]].type}
            kind = "int8" if schema.TensorType.INT8 in types else "float32"
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


def layer_name(graph, operator):
    """The name of that layer."""
    path = layer_path(graph, operator)
    return path[1] if len(path) > 1 else "the last one"  # its tensor is called as the output is


def bytes_by_layer(model, layer_names):
    """Bytes of constants that the operators of each Keras layer read.

    Those of several layers, such as the bits of all filters of a shape, are divided by what each
    layer reads of them.

    Args:
        model: From `flatbuffer.read`.
        layer_names: Of the Keras model, in order; the last one owns the output, which the converter
            names after nothing.

    Returns:
        A dict from layer name to bytes, without the layers that have none.
    """
    graph = model.subgraphs[0]
    unpackers = {id(operator) for operator in unpacking(model)}
    readers = collections.defaultdict(collections.Counter)  # tensor -> layer -> elements
    for operator in reversed(graph.operators):
        inputs = [index for index in operator.inputs if index >= 0]
        if id(operator) in unpackers:
            layers = sum((readers[index] for index in operator.outputs), collections.Counter())
            for index in inputs:
                readers[index] += layers
        else:
            path = layer_path(graph, operator)
            layer = next((part for part in path if part in layer_names), layer_names[-1])
            for index in inputs:
                readers[index][layer] += max(1, int(np.prod(graph.tensors[index].shape)))
    of_buffers = collections.defaultdict(collections.Counter)
    sizes = collections.Counter()
    for index, layers in readers.items():
        tensor = graph.tensors[index]
        data = model.buffers[tensor.buffer].data
        if data is not None:
            of_buffers[tensor.buffer] += layers
            sizes[tensor.buffer] = max(sizes[tensor.buffer], len(data) + 4 * _scales(tensor))
    total = collections.Counter()
    for buffer, layers in of_buffers.items():
        for layer, elements in layers.items():
            total[layer] += sizes[buffer] * elements / layers.total()
    return {layer: round(total[layer]) for layer in layer_names if round(total[layer])}
