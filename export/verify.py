"""Compares a converted file with the Keras model it came from, image by image.

Where nothing is compared with a threshold, float32 rounding is all that may differ. Where a sign
or a gate is, rounding may tip a value that lies on the threshold, and what follows differs by more
than rounding. Such an image is looked into: it is explained if the first values that tipped lay
within rounding of the threshold, in Keras, and an error otherwise.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from larq_compute_engine.tflite.python.interpreter import Interpreter

from larq_seresnet.export import flatbuffer
from larq_seresnet.layers import FMB

#: Greatest difference of a probability that float32 rounding explains.
ROUNDING = 1e-4
#: Greatest distance from a threshold, relative to the largest value beside it, likewise.
TIE = 1e-5
CHUNK = 200


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How Keras's probabilities and a converted model's for the same images compare.

    Attributes:
        images: How many.
        max_difference, mean_difference: Of single probabilities, absolute.
        argmax_agreement: Share of images that both give the same class.
        keras_error, converted_error: Top-1 error of both.
        beyond_rounding: For each image with a difference above `ROUNDING`: its index, both classes,
            the difference, and of the first values that tipped the "layer" and the "distance" from
            the threshold, relative to the largest value of that map; see `first_tipped`.
    """

    images: int
    max_difference: float
    mean_difference: float
    argmax_agreement: float
    keras_error: float
    converted_error: float
    beyond_rounding: list[dict]

    def unexplained(self):
        """Those of `beyond_rounding` that no tie explains; there must be none."""
        return [image for image in self.beyond_rounding if not image["distance"] <= TIE]


def run_lce(tflite, images):
    """Outputs of a converted model, from LCE's interpreter.

    Args:
        tflite: The file's bytes.
        images: What the Keras model takes, float32 (N, H, W, C).

    Returns:
        float32, (N, num_classes); a list of arrays if the file has several outputs.
    """
    return Interpreter(tflite).predict(images)


def compare(model, tflite, images, labels, layers):
    """Runs images through a Keras model and through its converted file.

    Args:
        model: From `SEResNet14`, float32.
        tflite: The file's bytes.
        images: What the model takes, float32 (N, H, W, C).
        labels: Integers, (N,).
        layers: Those that compare with a threshold, from `threshold_layers`.

    Returns:
        An `Agreement`.

    Raises:
        ValueError: If either gives NaN, or their outputs differ in shape.
    """
    expected = model.predict(images, batch_size=500, verbose=0)
    received = run_lce(tflite, images)
    if expected.shape != received.shape:
        raise ValueError(f"Keras gives the shape {expected.shape}, the file {received.shape}.")
    if not (np.isfinite(expected).all() and np.isfinite(received).all()):
        raise ValueError("probabilities hold NaN or infinity: the model diverged in training.")
    difference = np.abs(expected - received)
    keras_class, converted_class = expected.argmax(axis=1), received.argmax(axis=1)
    beyond = np.flatnonzero(difference.max(axis=1) > ROUNDING)
    return Agreement(
        images=len(labels),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        argmax_agreement=float((keras_class == converted_class).mean()),
        keras_error=float((keras_class != labels).mean()),
        converted_error=float((converted_class != labels).mean()),
        beyond_rounding=[
            {
                "image": int(index),
                "keras": int(keras_class[index]),
                "converted": int(converted_class[index]),
                "difference": float(difference[index].max()),
                **tipped,
            }
            for index, tipped in zip(
                beyond, first_tipped(model, tflite, images[beyond], layers), strict=True
            )
        ],
    )


def first_tipped(model, tflite, images, layers):
    """Where Keras and a converted file first disagree on which side of a threshold values lie.

    Returns:
        For each image a dict: "layer" and "distance" as in `Agreement`. Keras rounds otherwise in
        another batch; if that alone makes it agree with the file, the layer is None, the distance
        0. If nothing tips and they do not agree, the layer is None, the distance infinite.
    """
    if not layers:
        return [{"layer": None, "distance": float("inf")}] * len(images)
    tflite = _with_threshold_inputs(tflite)
    compared = [_compared_with_zero(model, layer) for layer in layers]
    probe = tf.keras.Model(model.input, [model.output, *compared])
    found = []
    for start in range(0, len(images), CHUNK):  # an image's maps take some 2 MiB
        chunk = images[start : start + CHUNK]
        expected, received = (
            [np.asarray(output).reshape(len(chunk), -1) for output in outputs]
            for outputs in (probe(chunk), run_lce(tflite, chunk))
        )
        found += [
            _first_of_one(layers, [e[index] for e in expected], [r[index] for r in received])
            for index in range(len(chunk))
        ]
    return found


def _first_of_one(layers, expected, received):
    for layer, values, others in zip(layers, expected[1:], received[1:], strict=True):
        tipped = (values >= 0) != (others >= 0)
        if tipped.any():
            distance = np.abs(values[tipped]).max() / np.abs(values).max()
            return {"layer": layer, "distance": float(distance)}
    agree = np.abs(expected[0] - received[0]).max() <= ROUNDING
    return {"layer": None, "distance": 0.0 if agree else float("inf")}


def _compared_with_zero(model, name):
    """The Keras tensor whose sign the layer takes."""
    layer = model.get_layer(name)
    if isinstance(layer, FMB) and layer.activation == "sigmoid":
        return layer.input - 0.5
    return layer.input


def threshold_layers(tflite):
    """The Keras layers that compare with a threshold in a file with names, in its order."""
    content = flatbuffer.read(tflite)
    graph = content.subgraphs[0]
    return [flatbuffer.layer_path(graph, each)[1] for each in _threshold_operators(content)]


def _with_threshold_inputs(tflite):
    """The file with what is compared with a threshold as further outputs."""
    content = flatbuffer.read(tflite)
    graph = content.subgraphs[0]
    compared = [operator.inputs[0] for operator in _threshold_operators(content)]
    graph.outputs = [*graph.outputs, *compared]
    return flatbuffer.write(content)


def _threshold_operators(content):
    """The signs of binary convolutions and the gates of FMB."""
    unpacking = {id(operator) for operator in flatbuffer.unpacking(content)}
    return [
        operator
        for operator in content.subgraphs[0].operators
        if flatbuffer.operator_name(content, operator) in ("LceQuantize", "GREATER_EQUAL")
        and id(operator) not in unpacking
    ]
