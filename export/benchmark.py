"""What each way to store a model costs and gives: bytes, memory, operators, latency, accuracy."""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable

import numpy as np

from larq_seresnet import files, programs
from larq_seresnet.export import (
    anatomy,
    convert,
    flatbuffer,
    form,
    half,
    pack_litert,
    pack_tflm,
    report,
    runtimes,
    source,
    tflm,
    trial,
    verify,
)
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import machine

FULL_INT8 = "full int8"
AS_GIVEN = "as given"
BLOCK = 10
COLUMNS = (
    ("model", "model", "{}"),
    ("runtime", "runtime", "{}"),
    ("weights", "weights", "{}"),
    ("bytes", "bytes", "{:,}"),
    ("filters", "filters", "{:,}"),
    ("scales", "scales", "{:,}"),
    ("metadata", "metadata", "{:,}"),
    ("memory", "memory", "{:,}"),
    ("resident", "process grows by", "{:,}"),
    ("error", "error", "{:.2%}"),
    ("argmax_agreement", "as Keras", "{:.2%}"),
    ("p50_1", "ms p50", "{:.3f}"),
    ("p90_1", "p90", "{:.3f}"),
    ("p50_all", "all threads p50", "{:.3f}"),
    ("p90_all", "p90", "{:.3f}"),
    ("against_float32", "latency / float32", "{:.2f}"),
)


@dataclasses.dataclass(frozen=True)
class Target:
    """One file of a benchmark: a model's name, how its filters are stored, and the file.

    Attributes:
        inputs: From images, uint8, (N, H, W, 3), to what the file takes.
    """

    model: str
    weights: str
    converted: runtimes.Converted
    inputs: Callable[[np.ndarray], np.ndarray] = preprocess_input


def main(argv=None):
    """Measures all targets of the given models; returns the rows."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if arguments.rounds < 1:
            raise ValueError(f"--rounds must be at least 1, received {arguments.rounds}.")
        models, images, directory = _load(arguments)
        peers = [peer(path, images) for path in arguments.peer]
        _check_names([*models, *(each.model for each in peers)])
        if "tflm" in arguments.runtime:
            peers += filter(None, map(in_tflm, peers))
        files.make_writable(directory)  # before hours of measuring, not after
        calibration = preprocess_input(images.train[0])
        targets = [
            *(
                target
                for label, model in models.items()
                for target in all_targets(model, label, calibration, arguments.runtime)
                if _is_computed(target)
            ),
            *peers,
        ]
        if not targets:
            raise ValueError(
                f"--runtime must leave something to measure, received {arguments.runtime}: w1a1 "
                "has no files for tflm, and no network has without the package tflite-micro."
            )
        print(f"timing {len(targets)} files, {arguments.rounds} images each", flush=True)
        times = [
            latencies(targets, images.test[0], arguments.rounds, threads)
            for threads in (1, os.cpu_count())
        ]
        result = {"machine": environment(), "dataset": images.name, "images": len(images.test[0])}
        rows = measure(models, targets, images, times)
        print(markdown(result, rows))
        _write(directory, result, rows)
    print(f"wrote benchmark.json, benchmark.md, benchmark.png, error_by_bytes.png to {directory}")
    return rows


def _check_names(names):
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"--peer files must have names of their own, received {twice[0]} twice.")


def _load(arguments):
    """The models by what to call them, their one data set, and where to write."""
    loaded, kinds = {}, {}
    for each in arguments.source:
        if each in loaded:
            raise ValueError(f"each model must be given once, received {each} twice.")
        model, images, directory = source.load(arguments, each, pack_tflm.CALIBRATION_IMAGES)
        if images.test[1] is None:
            raise ValueError(f"--dataset must be of the classes of {each}, to tell its error.")
        kinds[each] = f"{images.name} {model.input_shape[1:]}"
        if len(set(kinds.values())) > 1:
            received = ", ".join(f"{each}: {kind}" for each, kind in kinds.items())
            raise ValueError(
                f"all models must be of one data set and input shape, received {received}."
            )
        loaded[each] = model
    count = collections.Counter(model.name for model in loaded.values())
    models = {
        f"{model.name} ({each})" if count[model.name] > 1 else model.name: model
        for each, model in loaded.items()
    }
    return models, images, arguments.out_dir or directory


def _write(directory, result, rows):
    content = json.dumps({**result, "rows": rows}, indent=2) + "\n"
    files.write_text(directory / "benchmark.json", content)
    text = markdown(result, rows)
    files.write_text(directory / "benchmark.md", text)
    report.draw_trade_offs(rows, directory / "benchmark.png")
    report.draw_error_by_bytes(rows, directory / "error_by_bytes.png")


def _parser():
    parser = argparse.ArgumentParser(
        description="Converts trained models in every way there is, beside float32 and full int8 "
        "conversions of the same, and measures all in turn.",
        allow_abbrev=False,
    )
    source.add_arguments(parser, nargs="+")
    parser.add_argument(
        "--peer",
        type=pathlib.Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="classifiers of the same images by others, .tflite for LiteRT and, if all in int8, "
        "TFLM, to be measured beside: they take pixels as uint8, as int8 (pixel - 128) or as "
        "float32 from 0 to 255",
    )
    parser.add_argument(
        "--runtime",
        nargs="+",
        choices=list(form.WEIGHTS),
        default=list(form.WEIGHTS),
        help="whose files to measure, default all; TFLM's take the most time",
    )
    parser.add_argument(
        "--rounds", type=int, default=500, metavar="N", help="timings of each file (default: 500)"
    )
    parser.add_argument(
        "--out-dir", type=pathlib.Path, metavar="DIR", help="default: beside the last weights"
    )
    return parser


def all_targets(model, label, calibration, runtime_names):
    """A model stored in every way that the runtimes compute, and in full int8, all stripped.

    Args:
        model: From `SEResNet14`, float32.
        label: What to call it.
        calibration: Training images as the model takes them.
        runtime_names: Which runtimes; TFLM is left out where it is not installed or not for the
            model, and full int8 without LiteRT.
    """
    targets = []
    for runtime in runtime_names:
        if runtime == "tflm" and not pack_tflm.is_for(model):
            continue
        exact = convert.convert(model, runtime, calibration)
        for each in _forms(model, runtime):
            try:
                stored = convert.as_stored(model, each.weights)
            except ValueError as error:  # of numbers that float16 does not hold
                print(f"{label} is not measured so: {error}", file=sys.stderr)
                continue
            tflite = exact if stored is model else convert.convert(stored, runtime)
            converted = convert.store(tflite, each)[0]
            name = each.weights + ", fewest bytes" * (each.memory == "fewest-bytes")
            targets.append(Target(label, name, converted, converted.as_input))
    if "litert" in runtime_names:
        quantized = flatbuffer.stripped(pack_litert.full_int8(model, calibration))
        targets.append(Target(label, FULL_INT8, runtimes.Converted(quantized, "litert")))
    return targets


def _is_computed(target):
    """Whether the runtime takes a file; says why, where it does not."""
    runtime = target.converted.runtime
    problem = files.trial(trial.__file__, runtime, content=target.converted.tflite)
    if problem:
        print(
            f"{target.model}, {runtime}, {target.weights} is not measured: {problem}",
            file=sys.stderr,
        )
    return not problem


def _forms(model, runtime):
    """All forms of files for a runtime that there are of a model."""
    one_bit = json.loads(model.configuration)["precision"] != "float32"
    for each in form.forms(runtime, strip=True):
        is_half = each.weights == pack_litert.HALF
        if each.weights == each.any_values or (one_bit and (not is_half or half.is_for(model))):
            yield each


def peer(path, images):
    """The target that a classifier of others is.

    Raises:
        ValueError: If it is none of these images, or takes them in another form.
    """
    converted = runtimes.load(path, "litert")
    input_facts, output_facts = converted.interface()
    pixels, classes = images.test[0].shape[1:], len(images.class_names)
    forms = {
        "float32": lambda images: images.astype(np.float32),
        "uint8": lambda images: images,
        "int8": lambda images: (images.astype(np.int16) - 128).astype(np.int8),
    }
    received = (input_facts.dtype.name, input_facts.shape, output_facts.shape)
    if input_facts.dtype.name not in forms or received[1:] != ((1, *pixels), (1, classes)):
        raise ValueError(
            f"--peer {path} must take {', '.join(forms)} of the shape {(1, *pixels)} and give "
            f"{(1, classes)}, received {' '.join(map(str, received))}."
        )
    zero = -128 if input_facts.dtype == np.int8 else 0
    quantized = input_facts.scale, input_facts.zero_point
    if not any(np.allclose(quantized, (scale, zero), rtol=1e-3) for scale in (1, 1 / 255)):
        raise ValueError(
            f"--peer {path} must take pixels, from 0 to 255 or from 0 to 1, as {received[0]} with "
            f"zero point {zero}, received scale {quantized[0]:g} and zero point {quantized[1]}."
        )
    return Target(path.stem, AS_GIVEN, converted, forms[input_facts.dtype.name])


def in_tflm(target):
    """The same peer computed by TFLM; None if TFLM is not installed or does not take it."""
    integers = all(each.dtype == np.int8 for each in target.converted.interface())
    if not integers or not tflm.is_installed():
        return None
    try:
        tflm.arena(target.converted.tflite)
    except ValueError as reason:
        print(f"{target.model} is measured in LiteRT alone: {reason}", file=sys.stderr)
        return None
    return dataclasses.replace(
        target, converted=runtimes.Converted(target.converted.tflite, "tflm")
    )


def measure(models, targets, images, times):
    """One row a target: a dict for json; latencies in milliseconds.

    Args:
        models: Keras models by name; targets of other names have nothing to agree with, and no
            float32 file to be compared with: None in their rows.
        targets: Of class `Target`.
        images: A `data.ImageSet`.
        times: Of `latencies`, for one thread and for all.

    It prints a line a target, for with many images each takes a minute.
    """
    shown, labels = images.test
    keras_class = {
        name: verify.keras_outputs(model, shown).argmax(axis=1) for name, model in models.items()
    }
    rows = []
    for target, alone, together in zip(targets, *times, strict=True):
        chosen = verify.outputs(target.converted, shown, target.inputs).argmax(axis=1)
        same = chosen == keras_class[target.model] if target.model in models else None
        rows.append(
            {
                **_costs(target),
                "error": float((chosen != labels).mean()),
                "argmax_agreement": None if same is None else float(same.mean()),
                "p50_1": float(np.percentile(alone, 50)),
                "p90_1": float(np.percentile(alone, 90)),
                "threads": os.cpu_count(),
                "p50_all": float(np.percentile(together, 50)),
                "p90_all": float(np.percentile(together, 90)),
            }
        )
        _tell(rows[-1], len(images.class_names))
    base = {
        (row["model"], row["runtime"]): row["p50_1"] for row in rows if row["weights"] == "float32"
    }
    for row in rows:
        of_float32 = base.get((row["model"], row["runtime"]))
        row["against_float32"] = of_float32 and row["p50_1"] / of_float32
    return rows


def _costs(target):
    """What a target is called, and what it takes but time."""
    converted = target.converted
    content = flatbuffer.read(converted.tflite)
    is_tflm = converted.runtime == "tflm"
    return {
        "model": target.model,
        "runtime": converted.runtime,
        "weights": target.weights,
        **anatomy.bytes_by_part(content, len(converted.tflite)),
        "memory": tflm.arena(converted.tflite) if is_tflm else anatomy.peak_activations(content),
        "resident": _resident(converted),
        "macs": anatomy.macs(content),
        "operators": anatomy.count_operators(content),
    }


def _tell(row, classes):
    """Prints a line of a row, and one more where a peer seems to be of other images."""
    print(
        f"{row['model']}, {row['runtime']}, {row['weights']}: {row['bytes']:,} bytes, "
        f"error {row['error']:.2%}",
        flush=True,
    )
    if row["argmax_agreement"] is None and row["error"] > 0.9 * (1 - 1 / classes):
        print(
            f"{row['model']} hardly does better than chance: --peer files take pixels as they "
            "are, and classes in the order of the data set.",
            file=sys.stderr,
        )


def _resident(converted):
    """The bytes by which a process grows to classify an image; None where that cannot be told."""
    said = files.trial(trial.__file__, converted.runtime, "resident", content=converted.tflite)
    return int(said) if said.isdecimal() else None


def latencies(targets, images, rounds, threads):
    """Milliseconds that the runtime computes one image, (targets, rounds).

    The targets take turns of `BLOCK` images, so that what else the machine does falls on all alike;
    before each turn one image is computed without the clock, so that caches are warm.
    """
    sessions = [target.converted.session(threads) for target in targets]
    inputs = [target.inputs(images[:rounds]) for target in targets]
    times = np.zeros((len(sessions), rounds))
    for start in range(0, rounds, BLOCK):
        for number, session in enumerate(sessions):
            session.feed(inputs[number][:1])
            session.invoke()
            for turn in range(start, min(start + BLOCK, rounds)):
                session.feed(inputs[number][turn % len(images)][np.newaxis])
                started = time.perf_counter()
                session.invoke()
                times[number, turn] = 1e3 * (time.perf_counter() - started)
    return times


def environment():
    """The processor and what else a reader of latencies must know."""
    return {
        "processor": machine.processor(),
        "architecture": platform.machine(),
        "threads": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def markdown(result, rows):
    """The benchmark for people."""
    computer = result["machine"]
    warning = (
        ""
        if computer["architecture"] in ("aarch64", "arm64")
        else "**This is no ARM processor: LCE's kernels are tuned for ARM alone, here its "
        "reference code runs. Latencies of lce say nothing about a Raspberry Pi or a phone.**\n\n"
    )
    header = [title for _, title, _ in COLUMNS]
    table = [
        ["-" if row[key] is None else form.format(row[key]) for key, _, form in COLUMNS]
        for row in rows
    ]
    macs = [
        [row["model"], row["runtime"], row["weights"]]
        + [f"{row['macs'][kind]:,}" for kind in anatomy.MAC_KINDS]
        + [sum(row["operators"].values())]
        for row in rows
    ]
    return (
        f"# Benchmark\n\n{computer['processor']} ({computer['architecture']}), 1 thread and "
        f"{computer['threads']}; load average after the timings {computer['load']}. All files "
        f"took turns in one run; a latency is that of one image in the runtime's invoke(), in "
        f"milliseconds.\n\n{warning}"
        f"Error on {result['images']:,} test images of {result['dataset']}. Memory: bytes of "
        "activations and unpacked filters that live at once at most, without what kernels take; of "
        "TFLM what its interpreter needs in all, on this machine. Process grows by: bytes resident "
        "in memory, from the runtime's library loaded to one image classified, with what its "
        "kernels take and copy. "
        f"{FULL_INT8}: post-training quantization, calibrated on {pack_tflm.CALIBRATION_IMAGES} "
        f"training images. {AS_GIVEN}: a file by others.\n\n"
        + files.table(header, table)
        + "\n## Multiply-accumulates of one image, and operators\n\n"
        + files.table(("model", "runtime", "weights", *anatomy.MAC_KINDS, "operators"), macs)
    )


if __name__ == "__main__":
    main()
