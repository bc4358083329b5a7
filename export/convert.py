"""The command line of conversion: a run directory or a weight file in, .tflite and report out."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import sys
import warnings

import tensorflow as tf

from larq_seresnet import SEResNet14, files
from larq_seresnet.export import flatbuffer, pack, verify
from larq_seresnet.export.inference import inference_form
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import config, data
from larq_seresnet.weights import read_configuration

PACKAGES = ("larq-compute-engine", "larq", "tensorflow", "tf-keras", "numpy")
TFLITE_FILE = "model.tflite"
RESIDUAL_CONVOLUTIONS = 12


def main(argv=None):
    """Converts and verifies one model; exits with 1 if the file computes something else."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        weights, data_dir = _source(arguments.source)
        configuration, trained_on = read_configuration(weights)
        if not configuration["include_top"]:
            raise ValueError(f"{weights} must have a classifier, received include_top=False.")
        if not (arguments.dataset or trained_on):
            raise ValueError(f"--dataset is needed: {weights} does not say what it was trained on.")
        model = SEResNet14(**configuration, weights=weights)
        images = data.load(
            arguments.dataset or trained_on,
            arguments.data_dir or data_dir,
            configuration["input_shape"][:2],
            limit_train=1,
            limit_test=arguments.limit_test,
        )
        if len(images.class_names) != configuration["num_classes"]:
            raise ValueError(
                f"`dataset` must have {configuration['num_classes']} classes, as the model has, "
                f"received {images.name} with {len(images.class_names)}."
            )
        named, left_alone = convert(model), []
        if arguments.pack:
            named, left_alone = pack.pack(named)
        tflite = pack.strip(named) if arguments.strip else named
        report = prove(model, tflite, images, named, left_alone)
    except (ValueError, OSError, data.DataUnavailable) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    directory = arguments.out_dir or weights.parent
    directory.mkdir(parents=True, exist_ok=True)
    files.replace(directory / TFLITE_FILE, lambda part: part.write_bytes(tflite))
    content = json.dumps(report, indent=2) + "\n"
    files.replace(directory / "report.json", lambda part: part.write_text(content))
    files.replace(directory / "report.md", lambda part: part.write_text(markdown(report)))
    print(markdown(report))
    print(f"wrote {directory / TFLITE_FILE}, and report.json and report.md beside it")
    if report["failures"]:
        sys.exit("not verified: " + "; ".join(report["failures"]))
    return directory


def _parser():
    parser = argparse.ArgumentParser(
        prog="convert.py",
        description="Converts a trained SEResNet14 with Larq Compute Engine and proves, image by "
        "image, that the file computes what the Keras model computes.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", type=pathlib.Path, metavar="RUN_DIR|WEIGHTS", help="what train.py wrote"
    )
    parser.add_argument(
        "--out-dir", type=pathlib.Path, metavar="DIR", help="default: beside the weights"
    )
    parser.add_argument(
        "--pack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store 1-bit filters of layers with float input as bits, which LCE does not",
    )
    parser.add_argument(
        "--strip",
        action="store_true",
        help="drop names and signatures too: smaller, and the same to the runtime",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose test images to prove it on; default: as in training",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps data sets")
    parser.add_argument(
        "--limit-test", type=int, metavar="N", help="use this many test images, default all"
    )
    return parser


def _source(source):
    """The weight file, and where its run found its data."""
    if not source.is_dir():
        return source, None
    weights = source / config.WEIGHTS_FILE
    if not weights.exists():
        raise ValueError(
            f"{source} is no finished run: it holds no {config.WEIGHTS_FILE}. "
            f"train.py --resume --run-dir {source} finishes one."
        )
    return weights, config.load(source)[0].data_dir


def convert(model):
    """Converts a float32 SEResNet14 for LCE's target "arm"; returns the file's bytes.

    What is converted is its inference form, so FMB needs neither sigmoid nor tanh.

    Raises:
        RuntimeError: If the conversion by way of a SavedModel fails. LCE would then warn and try
            another way, with another result.
    """
    import larq_compute_engine as lce  # touches tf.keras, so not before larq_seresnet

    model = inference_form(model)
    # LCE cuts names off after 50 characters; without the model's own the layer's always fits.
    model = tf.keras.Model(model.input, model.output, name="m")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Saved-model conversion failed")
        try:
            return lce.convert_keras_model(model)
        except UserWarning as warning:
            raise RuntimeError("LCE could not convert the model's SavedModel.") from warning


def prove(model, tflite, images, named, left_alone):
    """Runs every test image through Keras and through LCE's interpreter.

    Args:
        model: From `SEResNet14`, float32.
        tflite: The file's bytes.
        images: A `data.ImageSet`.
        named: The same file with the names of layers, if `tflite` has none.
        left_alone: Layers whose filters could not be packed.

    Returns:
        The report: a dict for json, whose "failures" are empty if the file is what it should be.
    """
    configuration = json.loads(model.configuration)
    inputs, labels = preprocess_input(images.test[0]), images.test[1]
    agreement = verify.compare(model, tflite, inputs, labels, verify.threshold_layers(named))
    content = flatbuffer.read(named)
    operators = flatbuffer.count_operators(content)
    unexplained = len(agreement.unexplained())
    failures = []
    if unexplained:
        failures.append(f"{unexplained} images differ by more than rounding and not by a tie")
    binary = RESIDUAL_CONVOLUTIONS if configuration["precision"] == "w1a1" else 0
    if operators.get("LceBconv2d", 0) != binary:
        failures.append(f"{operators.get('LceBconv2d', 0)} binary convolutions instead of {binary}")
    return {
        "model": model.name,
        "configuration": configuration,
        "dataset": images.name,
        "failures": failures,
        **dataclasses.asdict(agreement),
        "unexplained": unexplained,
        "bytes": len(tflite),
        "filters_left_alone": left_alone,
        "bytes_by_layer": flatbuffer.bytes_by_layer(
            content, [layer.name for layer in model.layers]
        ),
        "operators": operators,
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def markdown(report):
    """The report for people."""
    failures, beyond = report["failures"], report["beyond_rounding"]
    changed = [each for each in beyond if each["keras"] != each["converted"]]
    facts = [
        ("same class", f"{report['argmax_agreement']:.4%}"),
        ("largest difference of a probability", f"{report['max_difference']:.2e}"),
        ("mean difference", f"{report['mean_difference']:.2e}"),
        (f"images beyond {verify.ROUNDING:g}", len(beyond)),
        ("of them explained by a tie", len(beyond) - report["unexplained"]),
        ("top-1 error, Keras", f"{report['keras_error']:.2%}"),
        ("top-1 error, converted", f"{report['converted_error']:.2%}"),
        ("bytes", f"{report['bytes']:,}"),
        ("filters not packed", ", ".join(report["filters_left_alone"]) or "none"),
    ]
    ties = [
        (each["image"], each["keras"], each["converted"], each["layer"], f"{each['distance']:.1e}")
        for each in changed
    ]
    return (
        f"# {report['model']}: {'NOT VERIFIED' if failures else 'verified'}\n\n"
        + "".join(f"- {failure}\n" for failure in failures)
        + ("\n" if failures else "")
        + f"{report['images']:,} test images of {report['dataset']}, through Keras in float32 "
        f"and through LCE's interpreter.\n\n"
        + _table(("", ""), facts)
        + "\n## Images that change class\n\n"
        + _table(("image", "Keras", "converted", "first tie in", "relative distance"), ties)
        + "\n## Operators\n\n"
        + _table(("operator", "count"), report["operators"].items())
        + "\n## Bytes of constants a layer\n\n"
        + _table(("layer", "bytes"), [(k, f"{v:,}") for k, v in report["bytes_by_layer"].items()])
        + "\n## Versions\n\n"
        + _table(("package", "version"), report["versions"].items())
    )


def _table(header, rows):
    if not rows:
        return "None.\n"
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


if __name__ == "__main__":
    main()
