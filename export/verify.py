"""Compares a converted file with the Keras model it came from, image by image.

Where nothing is compared with a threshold, float32 rounding is all that may differ. Where a sign
or a gate is, rounding may tip a value that lies on the threshold, and what follows differs by more
than rounding. Such an image is looked into: it is explained if the first values that tipped lay
within rounding of the threshold, in Keras, and an error otherwise.

INT8 filters that a layer reads itself are another matter: LiteRT rounds that layer's input to 8
bits. Such a file is compared with a Keras model that does the same, to prove that it is computed
rightly, and with the model itself, to see what the rounding costs. So is one whose scales are
float16, but to the same precision as any other.

TFLM computes in 8 bits throughout, which no Keras model does. Its file must give what the same file
gives with its filters unpacked, to the last bit, and nearly always the model's class.
"""

import argparse
import collections
import dataclasses
import hashlib
import pathlib
import sys

import numpy as np

from larq_seresnet import programs
from larq_seresnet.export import (
    agreement,
    anatomy,
    divergence,
    flatbuffer,
    half,
    inference,
    interface,
    pack_tflm,
    report,
    runtimes,
    source,
    tflm,
)
from larq_seresnet.preprocessing import preprocess_input

#: Greatest difference of a layer's output, relative to its largest value, that counts as none.
SAME_LAYER = 1e-3
#: The difference of what is NaN or infinite to anything: json has no number for either.
NOT_FINITE = float(np.finfo(np.float32).max)
#: Images of 32x32 pixels that Keras computes at once.
BATCH = 500


def main(argv=None):
    """Verifies one file; exits with 1 if it does not compute what the Keras model computes."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        converted = runtimes.load(arguments.tflite, arguments.runtime)
        if arguments.layers and converted.runtime == "tflm":
            raise ValueError("--layers is for lce and litert: TFLM shows nothing but its outputs.")
        model, images, _ = source.load(arguments)
        check_fits(model, converted, arguments.tflite, arguments.source)
        found = compare(model, converted, *images.test)
        failed = found.failures()
        print(f"# {arguments.tflite}: {'NOT VERIFIED' if failed else 'verified'}\n")
        print(report.agreement(facts(found, images, converted)))
        if (failed or arguments.layers) and converted.runtime != "tflm":
            _print_layers(model, converted, images, found)
    if failed:
        sys.exit("not verified: " + "; ".join(failed))


def _print_layers(model, converted, images, found):
    """Layer by layer, of the image that differs most."""
    worst = max(found.listed, key=lambda each: each["difference"], default={"image": 0})
    reference = _reference(model, converted)
    rows = divergence.layer_table(reference, converted, images.test[0][worst["image"]])
    print(f"\n## Layers, image {worst['image']}\n\n" + report.layers(rows, SAME_LAYER))


def _parser():
    parser = argparse.ArgumentParser(
        description="Runs every test image through a .tflite file and through the Keras model.",
        allow_abbrev=False,
    )
    parser.add_argument("tflite", type=pathlib.Path, metavar="FILE", help="a .tflite file")
    source.add_arguments(parser)
    parser.add_argument(
        "--runtime", choices=runtimes.RUNTIMES, help="default: the one the file is for"
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="compare layer by layer too, which is done anyway if the file is not verified",
    )
    return parser


def check_fits(model, converted, path, weights):
    """Raises ValueError, in one line, if a file is not of the model's architecture."""
    input_facts, output_facts = converted.interface()
    types = interface.INPUT_TYPES[converted.runtime]
    if input_facts.dtype.name not in types:
        raise ValueError(
            f"{path} must take {' or '.join(types)}, as convert.py writes files for "
            f"{converted.runtime}, it takes {input_facts.dtype.name}."
        )
    remedy = f"give the weights it was made of, not {weights}"
    expected = (1, *model.input_shape[1:])
    if input_facts.shape != expected:
        raise ValueError(
            f"{path} takes images of {input_facts.shape}, the weights are for {expected}: {remedy}."
        )
    if output_facts.shape != (1, *model.output_shape[1:]):
        raise ValueError(
            f"{path} gives {output_facts.shape[-1]} classes, the weights {model.output_shape[1]}: "
            f"{remedy}."
        )
    content = flatbuffer.read(converted.tflite)
    of_file = anatomy.filter_shapes(content)
    of_model = collections.Counter(
        (shape[-1], *shape[:2]) if len(shape) == 4 else (shape[1], shape[0])
        for shape in (weight.shape for weight in model.trainable_weights)
        if len(shape) > 1
    )
    thresholds = len(divergence.threshold_operators(content))
    expected = 0 if converted.runtime == "tflm" else len(divergence.threshold_layers(model))
    if of_file != of_model or thresholds != expected:
        raise ValueError(f"{path} is of another architecture than {model.name}: {remedy}.")


def facts(found, images, converted):
    """What a report says of an agreement: a dict for json.

    Args:
        found: An `agreement.Agreement`.
        images: The `data.ImageSet` whose test images were compared.
        converted: The `runtimes.Converted`.
    """
    arena = {"arena": tflm.arena(converted.tflite)} if converted.runtime == "tflm" else {}
    return {
        "dataset": images.name,
        "runtime": converted.runtime,
        "bytes": len(converted.tflite),
        "sha256": hashlib.sha256(converted.tflite).hexdigest(),
        "memory": anatomy.peak_activations(flatbuffer.read(converted.tflite)),
        **arena,
        **dataclasses.asdict(found),
        "unexplained": len(found.unexplained()),
    }


def compare(model, converted, images, labels):
    """Runs images through a Keras model and through its converted file.

    Args:
        model: From `SEResNet14`, float32.
        converted: A `runtimes.Converted` of the same architecture.
        images: uint8, 0..255, (N, H, W, 3). A file that takes bytes gets them as they are, Keras
            and other files what `preprocess_input` makes of them.
        labels: Integers, (N,); None where they are not the model's classes.

    Returns:
        An `agreement.Agreement`, of the kind that is for such a file.

    Raises:
        ValueError: If Keras gives NaN or infinity.
    """
    reference = _reference(model, converted)
    expected = keras_outputs(reference, images)
    received = outputs(converted, images)
    if not np.isfinite(expected).all():
        raise ValueError("Keras gives NaN or infinity: the model diverged in training.")
    int8_output = converted.interface()[1].dtype == np.int8
    rounding = divergence.ROUNDING + interface.SCALE * int8_output
    difference = _difference(expected, received)
    keras_class, converted_class = expected.argmax(axis=1), received.argmax(axis=1)
    kind, beside = _kind(converted), {}
    if kind is agreement.OfIntegers:
        beside |= _unpacked_difference(model, converted, images, received)
    if kind is agreement.OfRoundedInputs:
        beside |= _eight_bit_difference(reference, images, received)
    if reference is not model:
        beside |= _half_difference(model, images, converted_class, labels)
    return kind(
        images=len(images),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean(dtype=np.float64)),
        argmax_agreement=float((keras_class == converted_class).mean()),
        keras_error=_error(keras_class, labels),
        converted_error=_error(converted_class, labels),
        rounding=rounding,
        listed=_listed(reference, converted, images, expected, received, rounding),
        **beside,
    )


def keras_outputs(model, images):
    """What a Keras model gives for images, uint8, (N, H, W, 3)."""
    at_once = divergence.as_many(BATCH, images)
    return _in_parts(
        lambda part: model.predict(preprocess_input(part), batch_size=at_once, verbose=0), images
    )


def outputs(converted, images, inputs=None):
    """What a file gives for them, which takes what `inputs` makes of them, or its own way."""
    inputs = inputs or converted.as_input
    return _in_parts(lambda part: converted.predict(inputs(part)), images)


def _in_parts(predict, images):
    """Some at a time: as floats they take four times the memory that they take as bytes."""
    count = 2 * divergence.as_many(BATCH, images)
    starts = range(0, len(images), count)
    return np.concatenate([predict(images[start : start + count]) for start in starts])


def _listed(model, converted, images, expected, received, rounding):
    """What `Agreement.listed` says."""
    keras_class, converted_class = expected.argmax(axis=1), received.argmax(axis=1)
    difference = _difference(expected, received).max(axis=1)
    other_class = keras_class != converted_class
    if _kind(converted) is agreement.Agreement:
        chosen = np.flatnonzero(other_class | (difference > rounding))
        causes = divergence.first_tipped(
            model, converted, images[chosen], received[chosen], rounding
        )
    else:
        chosen = np.flatnonzero(other_class)
        causes = [{"layer": None, "distance": None, "cause": "8 bits"}] * len(chosen)
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return [
        {
            "image": int(index),
            "keras": int(keras_class[index]),
            "converted": int(converted_class[index]),
            "margin": float(first[index] - second[index]),
            "difference": float(difference[index]),
            **_named(cause, difference[index], rounding),
        }
        for index, cause in zip(chosen, causes, strict=True)
    ]


def _difference(expected, received):
    return np.where(np.isfinite(received), np.abs(expected - received), NOT_FINITE)


def _named(cause, difference, rounding):
    """The cause of another class: the output, where no more than its steps differ."""
    steps = cause["cause"] == "batch" and divergence.ROUNDING < difference <= rounding
    return {**cause, "cause": "output"} if steps else cause


def _reference(model, converted):
    """The Keras model that a file must compute: with its scales rounded where the file's are."""
    return half.rounded(model) if half.is_stored(flatbuffer.read(converted.tflite)) else model


def _half_difference(model, images, converted_class, labels):
    classes = keras_outputs(model, images).argmax(axis=1)
    return {
        "half_agreement": float((classes == converted_class).mean()),
        "half_error": _error(classes, labels),
    }


def _error(classes, labels):
    return None if labels is None else float((classes != labels).mean())


def _kind(converted):
    """The kind of agreement that a file can have with its model."""
    if converted.runtime == "tflm":
        return agreement.OfIntegers
    rounds = anatomy.hybrid_operators(flatbuffer.read(converted.tflite))
    return agreement.OfRoundedInputs if rounds else agreement.Agreement


def _eight_bit_difference(model, images, received):
    rounded = keras_outputs(inference.eight_bit_form(model), images)
    difference = _difference(rounded, received).max(axis=1)
    return {
        "eight_bit_median": float(np.median(difference)),
        "eight_bit_most": float(np.sort(difference)[-1 - _beyond(len(difference))]),
    }


def _beyond(count):
    """How many of so many images may lie beyond the most: one of a hundred or of fewer."""
    return min(max(1, count // 100), count - 1)


def _unpacked_difference(model, converted, images, received):
    unpacked = dataclasses.replace(converted, tflite=pack_tflm.unpacked(converted.tflite))
    same = (outputs(unpacked, images) == received).all(axis=1)
    others = _other_filters(model, flatbuffer.read(unpacked.tflite))
    return {"unpacked_same": int(same.sum()), "other_filters": others}


def _other_filters(model, content):
    """How many output channels of a model's quantized kernels an INT8 graph does not hold.

    But for their scales and signs, which BatchNorm decides: where that is 0, so is the channel.
    """
    operators = anatomy.convolutions(content)
    filters = [flatbuffer.constant(content, operator.inputs[1]) for operator in operators]
    return _not_held(inference.quantized_kernels(model), filters)


def _not_held(kernels, filters):
    """How many output channels of kernels, (..., out), no filter holds, (out, ...)."""
    rows = [row for each in filters for row in each.reshape(len(each), -1)]
    held = collections.Counter(_levels(row) for row in rows if row.any())
    wanted = collections.Counter(
        _levels(row)
        for kernel in kernels
        for row in np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    )
    settled = sum(not row.any() for row in rows)
    return max(0, (wanted - held).total() - settled)


def _levels(row):
    """A channel's weights as bytes, relative to the largest and to the first that is not 0."""
    first = row[np.flatnonzero(row)[0]] if row.any() else 1
    greatest = np.abs(row).max() or 1
    return np.round(row * np.float64(np.sign(first) * 127 / greatest)).astype(np.int8).tobytes()


if __name__ == "__main__":
    main()
