"""Which roundings to 8 bits cost classes: maps of one kind at a time, in Keras.

    python export/roundings.py NAME [--out-dir DIR]

Ranges come from some training images, classes are compared on others of them, so that what is
chosen by these figures is not chosen on test images. Writes roundings.md.
"""

import argparse
import json

import numpy as np

from larq_seresnet import files, programs
from larq_seresnet.export import convert, pack_tflm, source, tflm
from larq_seresnet.export.inference import inference_form, round_within
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.weights import copy_weights

import tensorflow as tf

CALIBRATION, COMPARED = pack_tflm.CALIBRATION_IMAGES, 3_000
BATCH = 250
#: Ranges that are tried by mean squared error, as shares of the whole.
SHARES = np.linspace(0.3, 1.0, 36)
KINDS = {
    "images": (tf.keras.layers.InputLayer,),
    "what ReLU gives": (tf.keras.layers.ReLU,),
    "ends of branches": (tf.keras.layers.BatchNormalization,),
    "what gates let through": (tf.keras.layers.Multiply,),
    "means": (tf.keras.layers.GlobalAveragePooling2D,),
}


def main(argv=None):
    """Measures each kind; returns the rows."""
    parser = argparse.ArgumentParser(
        description="Rounds maps to 8 bits, one kind at a time, and counts the images that change "
        "class.",
        allow_abbrev=False,
    )
    source.add_arguments(parser, tests=False)
    source.add_out_dir(parser)
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        tflm.check_installed()
        model, images, directory = source.load(arguments, limit_train=CALIBRATION + COMPARED)
        if json.loads(model.configuration)["precision"] != "w1":
            raise ValueError(f"the weights must be of precision 'w1', received {model.name}.")
        directory = arguments.out_dir or directory
        directory.mkdir(parents=True, exist_ok=True)
        rows = measure(model, images)
        text = markdown(model, images, rows)
        files.write_text(directory / "roundings.md", text)
    print(text)
    return rows


def measure(model, images):
    """Rows of what is rounded, the share of images of one class, and how far probabilities move.

    Args:
        model: From `SEResNet14`, "w1", float32.
        images: A `data.ImageSet`.
    """
    pixels = images.train[0]
    inputs = preprocess_input(pixels)
    form = inference_form(model, binary_operators=False)
    kinds = _kinds(form)
    maps = tf.keras.Model(form.input, [form.get_layer(name).output for name in kinds])
    calibrating = min(CALIBRATION, len(inputs) // 2)
    seen = maps.predict(inputs[:calibrating], batch_size=BATCH, verbose=0)
    seen = dict(zip(kinds, seen, strict=True))
    compared = inputs[calibrating:]
    expected = form.predict(compared, batch_size=BATCH, verbose=0)

    def row(title, chosen, ranges):
        limits = {name: ranges(seen[name]) for name in chosen}
        of_images = limits.get(form.input_names[0])
        shown = round_within(compared, *of_images) if of_images else compared
        received = _rounded(form, limits).predict(shown, batch_size=BATCH, verbose=0)
        return (title, *_difference(expected, received))

    rows = [
        row(kind, [name for name in kinds if kinds[name] == kind], extremes)
        for kind in dict.fromkeys(kinds.values())
    ]
    rows.append(row("all of them", kinds, extremes))
    rows.append(row("all, ranges of least squared error", kinds, least_squares))
    rows.append(row("all, a range for each channel", kinds, lambda each: extremes(each, True)))
    converted = convert.to_tflite(model, "tflm", images=inputs[:calibrating])
    received = converted.predict(converted.as_input(pixels[calibrating:]))
    return [*rows, ("TFLM's file", *_difference(expected, received))]


def _difference(expected, received):
    same = expected.argmax(axis=1) == received.argmax(axis=1)
    return float(same.mean()), float(np.abs(expected - received).mean())


def _kinds(form):
    """By name of a layer, the kind of map that it gives, of those that a device stores."""
    found = {}
    for layer in form.layers:
        fused = any(
            isinstance(node.layer, (tf.keras.layers.ReLU, tf.keras.layers.Activation))
            for node in layer.outbound_nodes
        )
        kind = next((name for name, types in KINDS.items() if isinstance(layer, types)), None)
        if layer.name == "classifier_bn" or layer.name.startswith("logits"):
            found[layer.name] = "logits"
        elif kind and not fused:
            found[layer.name] = kind
    return found


def extremes(values, by_channel=False):
    """From the least to the greatest value, 0 among them."""
    axes = tuple(range(values.ndim - 1)) if by_channel else None
    return np.minimum(values.min(axes), 0), np.maximum(values.max(axes), 0)


def least_squares(values):
    """A share of that range with the least squared error, of what lies beyond it, too."""
    low, high = extremes(values)
    some = np.random.default_rng(0).choice(values.reshape(-1), 100_000)

    def error(share):
        return np.mean((round_within(some, share * low, share * high).numpy() - some) ** 2)

    best = min(SHARES, key=error)
    return best * low, best * high


class _Rounded(tf.keras.layers.Wrapper):
    """A layer whose output is rounded."""

    def __init__(self, layer, limits):
        super().__init__(layer, name=layer.name)
        self.limits = [np.float32(each) for each in limits]

    def call(self, *inputs):
        return round_within(self.layer(*inputs), *self.limits)


def _rounded(form, ranges):
    """The form with the outputs of some layers rounded within their ranges."""

    def rewrite(layer):
        if isinstance(layer, tf.keras.layers.InputLayer):
            return layer
        copy = type(layer).from_config(layer.get_config())
        return _Rounded(copy, ranges[layer.name]) if layer.name in ranges else copy

    rounded = tf.keras.models.clone_model(form, clone_function=rewrite)
    for layer in form.layers:
        copy_weights(layer, rounded.get_layer(layer.name))
    return rounded


def markdown(model, images, rows):
    """The rows for people."""
    table = [(title, f"{same:.2%}", f"{moved:.1e}") for title, same, moved in rows]
    return (
        f"# Roundings of {model.name}\n\n"
        f"Maps rounded to 8 bits in Keras; of {len(images.train[0]):,} training images of "
        f"{images.name} the first {CALIBRATION} tell the ranges, or half of fewer; classes are "
        "compared with the model's own on the others.\n\n"
        + files.table(("rounded", "same class", "mean difference of a probability"), table)
    )


if __name__ == "__main__":
    main()
