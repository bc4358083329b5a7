"""Where a converted file first gives other values than the Keras model it came from."""

import dataclasses

import numpy as np

from larq_seresnet.export import anatomy, flatbuffer
from larq_seresnet.layers import FMB, GATE_ACTIVATIONS
from larq_seresnet.preprocessing import preprocess_input

import tensorflow as tf

#: Greatest difference of a probability that float32 rounding explains.
ROUNDING = 1e-4
#: Greatest distance from a threshold, relative to the largest value beside it, likewise.
TIE = 1e-5
#: Images of 32x32 pixels whose maps are compared at once.
CHUNK = 200


def as_many(count, images):
    """As many images as need the memory of so many of 32x32 pixels, at least one."""
    return max(1, count * 32 * 32 // int(np.prod(images.shape[1:3])))


def first_tipped(model, converted, images, given, rounding=ROUNDING):
    """Where Keras and a converted file first disagree on which side of a threshold values lie.

    Args:
        model, converted: The network and its file.
        images: uint8, (N, H, W, 3).
        given: What the file itself gives for them: with its maps exposed it is another file.
        rounding: By how much a probability may differ.

    Returns:
        For each image a dict: "layer", "distance" and "cause" as in `agreement.Agreement`. If
        nothing tips, the layer is None, the distance 0 if they differ by no more than `rounding`,
        else None, too.
    """
    layers = threshold_layers(model)
    probe = tf.keras.Model(model.input, [model.output, *map(_compared_with_zero, layers)])
    content = flatbuffer.read(converted.tflite)
    operators = threshold_operators(content)
    above = [flatbuffer.operator_name(content, each) == "SIGN" for each in operators]
    exposed = _exposed(converted, [each.inputs[0] for each in operators])
    found = []
    count = as_many(CHUNK, images)
    for start in range(0, len(images), count):  # an image's maps take some 2 MiB
        chunk = images[start : start + count]
        expected, received = (
            [np.asarray(output).reshape(len(chunk), -1) for output in _as_list(outputs)]
            for outputs in (
                probe(preprocess_input(chunk)),
                exposed.predict(converted.as_input(chunk)),
            )
        )
        found += [
            _first_of_one(
                [layer.name for layer in layers],
                [each[index] for each in expected],
                [given[start + index].reshape(-1)]
                + [
                    np.where(each[index] > 0, each[index], -1.0) if sign else each[index]
                    for each, sign in zip(received[1:], above, strict=True)
                ],
                rounding,
            )
            for index in range(len(chunk))
        ]
    return found


def _first_of_one(names, expected, received, rounding=ROUNDING):
    for name, values, others in zip(names, expected[1:], received[1:], strict=True):
        tipped = (values >= 0) != (others >= 0)
        if tipped.any():
            largest = max(np.abs(values).max(), np.finfo(np.float32).tiny)
            distance = float(np.abs(values[tipped]).max() / largest)
            cause = "tie" if distance <= TIE else None
            return {"layer": name, "distance": distance, "cause": cause}
    if np.abs(expected[0] - received[0]).max() <= rounding:
        return {"layer": None, "distance": 0.0, "cause": "batch"}
    return {"layer": None, "distance": None, "cause": None}


def threshold_layers(model):
    """The layers that compare with a threshold, in the order of the network."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, FMB) or getattr(layer, "input_quantizer", None) is not None
    ]


def _compared_with_zero(layer):
    """The Keras tensor whose sign the layer takes."""
    if isinstance(layer, FMB) and GATE_ACTIVATIONS[layer.activation].threshold:
        return layer.input - GATE_ACTIVATIONS[layer.activation].threshold
    return layer.input


_GATES = ("GREATER_EQUAL", "SIGN")


def threshold_operators(content):
    """The same in a file: the signs of binary convolutions and the gates of FMB.

    Gates are compared with 0, or are the sign of what a ReLU lets through.
    """
    unpacking = {id(operator) for operator in anatomy.unpacking(content)}
    return [
        operator
        for operator in content.subgraphs[0].operators
        if flatbuffer.operator_name(content, operator) in ("LceQuantize", *_GATES)
        and id(operator) not in unpacking
    ]


def layer_table(model, converted, image):
    """Compares what the layers give for one image, to find where a difference arises.

    A file has no names if it was stripped, and fewer layers: what fuses with the next has no output
    of its own. So a layer is compared with the tensor of its size that comes closest.

    Args:
        model, converted: As in `compare`.
        image: uint8, 0..255, (H, W, 3).

    Returns:
        Pairs of a Keras layer's name and the greatest difference, relative to the layer's greatest
        value; infinite where no tensor has its size.
    """
    layers = [layer for layer in model.layers[1:] if _survives(layer)]
    probe = tf.keras.Model(model.input, [layer.output for layer in layers])
    expected = probe(preprocess_input(image[np.newaxis]))
    tensors = anatomy.float_activations(flatbuffer.read(converted.tflite))
    received = _exposed(converted, tensors).predict(converted.as_input(image[np.newaxis]))
    received = [np.ravel(each) for each in received]
    rows = []
    for layer, values in zip(layers, expected, strict=True):
        values = np.ravel(values)
        distances = [np.abs(values - each).max() for each in received if each.size == values.size]
        scale = max(np.abs(values).max(), np.finfo(np.float32).tiny)
        rows.append((layer.name, float(min(distances, default=np.inf) / scale)))
    return rows


def _survives(layer):
    """Whether a layer's output is a tensor of its own in a converted file."""
    followers = [node.layer for node in layer.outbound_nodes]
    fuses = (tf.keras.layers.BatchNormalization, tf.keras.layers.ReLU, FMB)
    return not any(isinstance(follower, fuses) for follower in followers)


def _exposed(converted, tensors):
    """The file with further outputs."""
    content = flatbuffer.read(converted.tflite)
    graph = content.subgraphs[0]
    graph.outputs = [*graph.outputs, *tensors]
    return dataclasses.replace(converted, tflite=flatbuffer.write(content))


def _as_list(outputs):
    return outputs if isinstance(outputs, list) else [outputs]
