"""The command line of conversion: a run directory or a weight file in, .tflite and report out."""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from larq_seresnet import files, programs
from larq_seresnet.arguments import check_choice, check_keras_settings
from larq_seresnet.export import (
    anatomy,
    c_array,
    flatbuffer,
    form,
    half,
    interface,
    pack,
    pack_litert,
    pack_tflm,
    plan,
    report,
    runtimes,
    source,
    verify,
)
from larq_seresnet.export.inference import in_float32, inference_form, saved
from larq_seresnet.precision import layers_in
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.weights import shipped_files

import tensorflow as tf

PACKAGES = ("larq-compute-engine", "ai-edge-litert", "larq", "tensorflow", "tf-keras", "numpy")
RESIDUAL_CONVOLUTIONS = 12
LABELS_FILE = "labels.txt"
UNVERIFIED = ".unverified"


def main(argv=None):
    """Converts and verifies one model; returns the file, exits with 1 if it computes another."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        names = [each.name for each in dataclasses.fields(form.Form)]
        wanted = form.Form(**{name: getattr(arguments, name) for name in names})
        calibrated = wanted.runtime == "tflm"
        if arguments.c_array and not calibrated:
            raise ValueError(
                f"--c-array is for --runtime tflm, received {wanted.runtime}: other files are "
                "read from a file system."
            )
        model, images, directory = source.load(
            arguments, limit_train=pack_tflm.CALIBRATION_IMAGES if calibrated else 1
        )
        directory = arguments.out_dir or directory
        files.make_writable(directory)
        weights = source.locate(arguments.source)[0]
        made_of = _made_of(weights, arguments.source, directory)
        _check_unused(directory, wanted.stem, made_of, images.class_names)
        calibration = preprocess_input(images.train[0]) if calibrated else None
        converted, named, left_alone = _converted(model, wanted, calibration)
        proof = prove(model, converted, images, named, left_alone)
        proof |= made_of
        stem = wanted.stem + UNVERIFIED * bool(proof["failures"])
        written = _write(directory, stem, converted, proof, images, arguments.c_array)
        target = directory / written[-1]
        print(markdown(proof))
        print(f"wrote {target}; {', '.join(written[:-1])} beside it")
    if proof["failures"]:
        sys.exit("not verified: " + "; ".join(proof["failures"]))
    return target


def _made_of(weights, given, directory):
    """What a report says of the weights: their name or place, from its folder, and the digest."""
    shipped = str(given) in shipped_files()
    where = str(given) if shipped else os.path.relpath(weights.resolve(), directory.resolve())
    return {"weights_file": where, "weights_sha256": files.digest(weights)}


def _check_unused(directory, stem, made_of, class_names):
    """Raises ValueError where a file of weights that lie elsewhere would lose itself or its labels.

    Weights in the same place may have been trained on.
    """
    labels = directory / LABELS_FILE
    keeps_labels = not (class_names and labels.exists())
    same_labels = keeps_labels or labels.read_bytes() == _lines(class_names)
    own = False
    for path in sorted(directory.glob("*.json")):
        report = files.read_report(path)
        told = made_of | report
        if any(told[name] == value for name, value in made_of.items()):
            own |= report.keys() >= made_of.keys()
            continue
        if path.stem.removesuffix(UNVERIFIED) == stem or not same_labels:
            lost = path.with_suffix(".tflite") if same_labels else labels
            raise ValueError(
                f"--out-dir must be another folder: {lost} there is of {told['weights_file']}, not "
                f"of {made_of['weights_file']}, and would be lost."
            )
    if not (same_labels or own):
        raise ValueError(
            f"--out-dir must be another folder: {labels} there was not written by this program, "
            "and would be lost."
        )


def _write(directory, stem, converted, proof, images, as_header):
    """Writes the file and what belongs to it; returns their names."""
    class_names = images.class_names
    contents = {
        f"{stem}.json": json.dumps(proof, indent=2).encode() + b"\n",
        f"{stem}.md": markdown(proof).encode(),
    }
    if as_header:
        text = c_array.header(converted.tflite, proof["model"], class_names, proof["arena"])
        contents[f"{stem}.h"] = text.encode()
    if class_names:
        contents[LABELS_FILE] = _lines(class_names)
    contents[f"{stem}.tflite"] = converted.tflite  # the last: there is none without its report
    other = stem.removesuffix(UNVERIFIED) if stem.endswith(UNVERIFIED) else stem + UNVERIFIED
    before = [f"{stem}.h"] * (not as_header)
    verified = files.read_report(directory / f"{other}.json") if proof["failures"] else {}
    if verified.get("weights_sha256") != proof["weights_sha256"]:
        before += [other + ending for ending in (".tflite", ".json", ".md", ".h")]
    files.replace_all(
        {
            directory / name: functools.partial(pathlib.Path.write_bytes, data=content)
            for name, content in contents.items()
        }
    )
    for name in before:
        (directory / name).unlink(missing_ok=True)  # it would pass for what belongs to this file
    if not class_names and (directory / LABELS_FILE).exists():
        print(f"{directory / LABELS_FILE} stays: it must be of these classes", file=sys.stderr)
    return list(contents)


def _lines(class_names):
    return "".join(f"{name}\n" for name in class_names).encode()


def _parser():
    parser = argparse.ArgumentParser(
        description="Converts a trained SEResNet14 for Larq Compute Engine (LCE), LiteRT or "
        "TensorFlow Lite for Microcontrollers (TFLM), and proves, image by image, that the file "
        "computes what the Keras model computes.",
        allow_abbrev=False,
    )
    source.add_arguments(parser)
    source.add_out_dir(parser)
    parser.add_argument(
        "--runtime",
        choices=runtimes.RUNTIMES,
        default="lce",
        help="lce: Larq Compute Engine, with binary convolutions; litert: stock LiteRT, built-in "
        "operators only; tflm: 8-bit integers for microcontrollers (default: lce)",
    )
    parser.add_argument(
        "--weights",
        choices=form.ALL_WEIGHTS,
        default="1bit",
        help="how 1-bit filters are stored: 1bit is small and exact, 1bit_half the smallest, its "
        "scales rounded to float16, int8 the fastest where processors multiply bytes (litert); "
        "float32: as the converters leave them (default: 1bit)",
    )
    parser.add_argument(
        "--memory",
        choices=pack.MEMORY,
        help="of lce and litert with filters in bits. least: each is unpacked just before it is "
        "read; fewest-bytes: together, for some kB less of file and up to four times the memory "
        "(default: least)",
    )
    parser.add_argument(
        "--input-type",
        choices=("float32", "uint8", "int8"),
        help="uint8: image bytes, normalised in the graph (default: float32, normalised; for tflm "
        "int8, normalised and rounded)",
    )
    parser.add_argument(
        "--output-type",
        choices=("float32", "int8"),
        help="int8: probabilities rounded to 1/256 (default: float32; for tflm int8)",
    )
    parser.add_argument(
        "--strip",
        action="store_true",
        help="drop names and signatures too: smaller, and the same to the runtime",
    )
    parser.add_argument(
        "--c-array",
        action="store_true",
        help="write a C++ header, too, that firmware is compiled with (for tflm)",
    )
    return parser


def convert(model, runtime="lce", images=None):
    """Converts a SEResNet14, filters left as they are.

    What is converted is its inference form, so FMB needs neither sigmoid nor tanh.

    Args:
        model: From `SEResNet14`.
        runtime: "lce", for its target "arm"; "litert"; or "tflm".
        images: For "tflm", training images that tell the ranges of its integers, some hundreds, as
            the model takes them, float32 (N, H, W, C).

    Returns:
        A file's bytes.

    Raises:
        ValueError: If there is no such runtime, it does not compute such a model or needs `images`,
            or Keras's global settings are none that `SEResNet14` takes, or if the model has others
            inside it, several inputs or outputs, or is for images of any size.
        RuntimeError: If the runtime's converter fails.
    """
    check_choice("runtime", runtime, form.WEIGHTS)
    check_keras_settings()
    _check_model(model)
    if runtime == "tflm" and images is None:
        raise ValueError("`images` must be training images for runtime 'tflm', received None.")
    with layers_in("float32"):
        model = in_float32(model)
        if runtime == "tflm":
            return pack_tflm.convert(model, images)
        return (_lce if runtime == "lce" else pack_litert.convert)(model)


def _check_model(model):
    """Raises ValueError for what is no functional model of one image and one answer."""
    if not (isinstance(model, tf.keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            "`model` must be a functional Keras model, from SEResNet14 or built on its outputs, "
            f"received {model!r}."
        )
    inside = [layer.name for layer in model.layers if isinstance(layer, tf.keras.Model)]
    if inside:
        raise ValueError(
            f"`model` must be of layers alone, received one with {', '.join(inside)} inside it. "
            "Build it on the outputs: Model(base.input, Dense(3, 'softmax')(base.output))."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output, received "
            f"{', '.join(model.input_names)} and {', '.join(model.output_names)}."
        )
    if None in model.input_shape[1:]:
        raise ValueError(
            f"`model` must have an `input_shape` of numbers, received {model.input_shape[1:]}: "
            "files are for images of one size."
        )


def as_stored(model, weights):
    """The model that a file computes whose filters are stored so: one with rounded scales, or it.

    Raises:
        ValueError: If it cannot be stored so, see `half.rounded`.
    """
    return half.rounded(in_float32(model)) if weights == pack_litert.HALF else model


def to_tflite(model, runtime="lce", weights="1bit", *, images=None, **options):
    """From a model to what a device gets, not proved.

    Args:
        model: From `SEResNet14`.
        runtime, weights, **options: Of `form.Form`, such as `input_type="uint8"` or `strip=True`.
        images: As `convert` takes them.

    Returns:
        A `runtimes.Converted`; its `tflite` are the file's bytes.

    Raises:
        ValueError: As `form.Form`, `convert`, `as_stored` and `store` do.
    """
    return _converted(model, form.Form(runtime, weights, **options), images)[0]


def _converted(model, wanted, images):
    """What `store` returns of a model."""
    _check_model(model)
    tflite = convert(as_stored(model, wanted.weights), wanted.runtime, images)
    return store(tflite, wanted)


def store(tflite, wanted):
    """Makes of a converted model the file that a device gets.

    Args:
        tflite: Bytes from `convert`, for the same runtime, of the model that `as_stored` returns.
        wanted: The `form.Form` of the file.

    Returns:
        A `runtimes.Converted`, the same file's bytes with the names of layers, and the layers whose
        filters were left alone because they are neither bits nor `pack.Levels`.

    Raises:
        ValueError: If all filters were left alone, or `interface.with_types` says no.
    """
    filters = len(anatomy.convolutions(flatbuffer.read(tflite)))
    named, left_alone = _with_filters(tflite, wanted)
    if len(left_alone) == filters and wanted.weights != wanted.any_values:
        raise ValueError(
            f"--weights {wanted.weights} needs 1-bit weights, and no layer has any: "
            f"use --weights {wanted.any_values}."
        )
    if wanted.runtime != "tflm":
        named = interface.with_types(named, wanted.input_type, wanted.output_type)
    tflite = flatbuffer.stripped(named) if wanted.strip else named
    if wanted.runtime == "tflm":
        tflite = plan.planned(tflite)
    return runtimes.Converted(tflite, wanted.runtime), named, left_alone


def _with_filters(tflite, wanted):
    """Stores the filters of a file in one way; returns it, and the layers that were left alone."""
    if wanted.weights == "float32":
        return tflite, []
    if wanted.runtime == "tflm":
        return pack_tflm.store(tflite, wanted.weights)
    memory = wanted.memory or pack.MEMORY[0]
    if wanted.runtime == "lce":
        tflite, left_alone = pack.pack(tflite, memory)
    else:
        tflite, left_alone = pack_litert.store(tflite, wanted.weights, memory)
    return half.store(tflite) if wanted.weights == pack_litert.HALF else tflite, left_alone


def _lce(model):
    import larq_compute_engine as lce  # touches tf.keras, so not before larq_seresnet

    with saved(inference_form(model, gates_by_sign=True)) as folder:
        return lce.convert_saved_model(folder)  # convert_keras_model falls back without a word


def prove(model, converted, images, named, left_alone):
    """Runs every test image through Keras and through the runtime of the file.

    Args:
        model: From `SEResNet14`.
        converted: A `runtimes.Converted`.
        images: A `data.ImageSet`.
        named: The same file with the names of layers, if `converted` has none.
        left_alone: Layers whose filters could not be packed.

    Returns:
        The report: a dict for json, whose "failures" are empty if the file is what it should be.
    """
    configuration = json.loads(model.configuration)
    model = in_float32(model)
    with layers_in("float32"):
        found = verify.compare(model, converted, *images.test)
    content = flatbuffer.read(named)
    operators = anatomy.count_operators(content)
    failures = found.failures()
    packages = [*PACKAGES, "tflite-micro"] if converted.runtime == "tflm" else PACKAGES
    binary = converted.runtime == "lce" and configuration["precision"] == "w1a1"
    expected = RESIDUAL_CONVOLUTIONS if binary else 0
    if operators.get("LceBconv2d", 0) != expected:
        failures.append(
            f"{operators.get('LceBconv2d', 0)} binary convolutions instead of {expected}"
        )
    return {
        "model": model.name,
        "configuration": configuration,
        "failures": failures,
        **verify.facts(found, images, converted),
        "filters_left_alone": left_alone,
        "bytes_by_layer": anatomy.bytes_by_layer(content, [layer.name for layer in model.layers]),
        "operators": operators,
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def markdown(proof):
    """The report of `prove` for people."""
    failures = proof["failures"]
    by_layer = [(layer, f"{size:,}") for layer, size in proof["bytes_by_layer"].items()]
    return (
        f"# {proof['model']}: {'NOT VERIFIED' if failures else 'verified'}\n\n"
        + "".join(f"- {failure}\n" for failure in failures)
        + ("\n" if failures else "")
        + report.agreement(proof)
        + "\n## Operators\n\n"
        + files.table(("operator", "count"), proof["operators"].items())
        + "\n## Bytes of constants a layer\n\n"
        + files.table(("layer", "bytes"), by_layer)
        + f"\nFilters left as they were: {', '.join(proof['filters_left_alone']) or 'none'}.\n"
        + "\n## Versions\n\n"
        + files.table(("package", "version"), proof["versions"].items())
    )


if __name__ == "__main__":
    main()
