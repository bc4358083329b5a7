"""Reads what stands in a .tflite file, through LCE's own schema module."""

import collections

from larq_compute_engine.mlir.python import tflite_schema as schema

_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def read(tflite):
    """The object form of a flatbuffer, bytes in, `schema.ModelT` out."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite, 0))


def operator_name(model, operator):
    """Such as "CONV_2D", or "LceBconv2d" for LCE's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return code.customCode.decode()
    return _BUILTIN_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def count_operators(model):
    """How often each operator occurs, most frequent first."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    return dict(collections.Counter(operator_name(model, each) for each in operators).most_common())


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
        layer = next(
            (part for part in layer_path(graph, operator) if part in total), layer_names[-1]
        )
        for index in operator.inputs:
            buffer = graph.tensors[index].buffer if index >= 0 else 0
            data = model.buffers[buffer].data
            if data is not None and buffer not in seen:
                seen.add(buffer)
                total[layer] += len(data)
    return {layer: size for layer, size in total.items() if size}
