"""What goes into a file and what comes out: image bytes, 8-bit probabilities."""

import numpy as np

from larq_seresnet.arguments import check_choice
from larq_seresnet.export import anatomy, flatbuffer
from larq_seresnet.preprocessing import MEAN, STD

#: By runtime, what its files can be made to take and to give; the first by default.
INPUT_TYPES = {"lce": ("float32", "uint8"), "litert": ("float32", "uint8"), "tflm": ("int8",)}
OUTPUT_TYPES = {"lce": ("float32", "int8"), "litert": ("float32", "int8"), "tflm": ("int8",)}
#: An int8 output q stands for the probability (q - ZERO_POINT) * SCALE.
SCALE, ZERO_POINT = 1 / 256, -128
_GIVE_PROBABILITIES = ("SOFTMAX", "LOGISTIC")


def with_types(tflite, input_type, output_type):
    """Changes what a file takes and gives.

    Args:
        tflite: Bytes of a file with float32 input and output.
        input_type: "float32" or None, what `preprocess_input` returns; or "uint8", image bytes,
            0..255, which are then normalised in the graph.
        output_type: "float32" or None; or "int8", rounded to multiples of 1/256.

    Returns:
        The new file's bytes.

    Raises:
        ValueError: If bytes are to be taken by a network of other than RGB images, which it would
            have to know how to normalise, or by one with layers before its first convolution; or
            to be given by one that does not end in probabilities.
    """
    model = flatbuffer.read(tflite)
    if input_type == "uint8":
        graph = model.subgraphs[0]
        readers = [each for each in graph.operators if graph.inputs[0] in each.inputs]
        names = {flatbuffer.operator_name(model, each) for each in readers}
        _check_bytes(graph.tensors[graph.inputs[0]].shape[1:], names == {"CONV_2D"})
        _take_bytes(model)
    if output_type == "int8":
        graph = model.subgraphs[0]
        last = anatomy.producer(graph, graph.outputs[0])
        if last is None or flatbuffer.operator_name(model, last) not in _GIVE_PROBABILITIES:
            raise ValueError(
                "`output_type` 'int8' is for probabilities, received a network that does not end "
                "in a softmax or sigmoid: take 'float32'."
            )
        _give_bytes(model)
    return flatbuffer.write(model)


def check_types(runtime, input_type, output_type):
    """Raises ValueError if a file for a runtime cannot be made to take or to give that.

    None is the runtime's default.
    """
    check_choice("input_type", input_type or INPUT_TYPES[runtime][0], INPUT_TYPES[runtime])
    check_choice("output_type", output_type or OUTPUT_TYPES[runtime][0], OUTPUT_TYPES[runtime])


def _check_bytes(shape, begins_with_convolution):
    """Raises ValueError where nobody has said what a network is fed of image bytes.

    Args:
        shape: Of an image, (H, W, C). Colours are normalised by `preprocess_input`; grey images, or
            those with a fourth channel, by whoever trained on them.
        begins_with_convolution: Whether one reads the image, and nothing else. Where other layers
            do, the network was built on an `input_tensor`, of bytes or of what they are.
    """
    if shape[-1] != 3 or not begins_with_convolution:
        received = (
            tuple(map(int, shape)) if shape[-1] != 3 else "layers before the first of its own"
        )
        raise ValueError(
            "`input_type` 'uint8' is for networks that take what preprocess_input returns, "
            f"(H, W, 3), received {received}: take 'float32' and normalise as in training."
        )


def _take_bytes(model):
    graph = model.subgraphs[0]
    (old,) = graph.inputs
    shape = tuple(graph.tensors[old].shape)
    edit = flatbuffer.Edit(model)
    new = edit.tensor(shape, np.uint8)
    (x,) = edit.operator("CAST", [new], [shape])
    x = edit.arithmetic("SUB", x, np.float32(MEAN), shape)
    x = edit.arithmetic("DIV", x, np.float32(STD), shape)
    readers = [operator for operator in graph.operators if old in operator.inputs]
    for operator in readers:
        operator.inputs = [x if index == old else index for index in operator.inputs]
    edit.insert_before(readers)
    _rename(model, old, new)
    graph.inputs = [new]


def _give_bytes(model):
    graph = model.subgraphs[0]
    (old,) = graph.outputs
    shape = tuple(graph.tensors[old].shape)
    edit = flatbuffer.Edit(model)
    (new,) = edit.operator("QUANTIZE", [old], [shape], dtype=np.int8)
    graph.tensors[new].quantization = flatbuffer.quantization([SCALE], [ZERO_POINT])
    edit.append()
    _rename(model, old, new)
    graph.outputs = [new]


def _rename(model, old, new):
    """Makes signatures mean a new tensor, and gives it the old one's name."""
    tensors = model.subgraphs[0].tensors
    tensors[new].name, tensors[old].name = tensors[old].name, tensors[old].name + b"/float32"
    for signature in model.signatureDefs or []:
        for each in [*signature.inputs, *signature.outputs]:
            if each.tensorIndex == old:
                each.tensorIndex = new
