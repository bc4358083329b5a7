"""Builds main.cc for emulated Cortex-M processors and compares it with TFLM's Python interpreter.

    python export/microcontroller/emulate.py FILE.tflite WEIGHTS --tflm-dir DIR [--limit-test 200]

FILE.tflite is what convert.py wrote of the weights with `--runtime tflm`, DIR a checkout of TFLM in
which `make -f tensorflow/lite/micro/tools/make/Makefile third_party_downloads` was run, also for
CMSIS-NN (README.md says how). Needs cmake, arm-none-eabi-gcc and qemu-system-arm. Takes the first
200 test images, unless told otherwise.
Writes microcontroller.json and microcontroller.md.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from larq_seresnet import files, programs
from larq_seresnet.export import c_array, runtimes, source, tflm, verify

HERE = pathlib.Path(__file__).resolve().parent
#: Of QEMU, by gcc's name of the processor.
MACHINES = {"cortex-m4": "mps2-an386", "cortex-m55": "mps3-an547"}
KERNELS = {"reference": "OFF", "CMSIS-NN": "ON"}
SECONDS = 3600
#: Test images, by default: an emulated processor takes its time.
IMAGES = 200
MOST_SAID = 500
COLUMNS = (
    ("cpu", "emulated"),
    ("kernels", "kernels"),
    ("text", ".text"),
    ("rodata", ".rodata"),
    ("ram", "RAM"),
    ("arena_used", "of it arena"),
    ("instructions", "instructions an image"),
    ("same_outputs", "same outputs"),
    ("same_class", "same class"),
)


def main(argv=None):
    """Builds, runs and compares; returns the rows."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        tflm.check_installed()
        tools = {
            "qemu": _said("qemu-system-arm", "--version").splitlines()[0],
            "gcc": _said("arm-none-eabi-gcc", "--version").splitlines()[0],
        }
        converted = _loaded(arguments.tflite)
        model, images, directory = source.load(arguments)
        verify.check_fits(model, converted, arguments.tflite, arguments.source)
        directory = arguments.out_dir or directory
        files.make_writable(directory)
        pixels = images.test[0][: arguments.limit_test or IMAGES]
        arena = tflm.arena(converted.tflite)
        header = c_array.header(converted.tflite, model.name, images.class_names, arena)
        with tempfile.TemporaryDirectory() as folder:
            build = (arguments.build_dir or pathlib.Path(folder)).resolve()
            build.mkdir(parents=True, exist_ok=True)
            files.write_text(build / "model.h", header)
            (build / "images.bin").write_bytes(pixels.tobytes())
            rows = _rows(build, arguments.tflm_dir, _expected(converted, pixels))
        result = {
            "model": model.name,
            "file": arguments.tflite.name,
            "bytes": len(converted.tflite),
            "sha256": hashlib.sha256(converted.tflite).hexdigest(),
            "arena": arena,
            "dataset": images.name,
            "images": len(pixels),
            "tflm": _commit(arguments.tflm_dir),
            **tools,
            "rows": rows,
        }
        text = markdown(result)
        for name, content in (("json", json.dumps(result, indent=2) + "\n"), ("md", text)):
            path = directory / f"microcontroller.{name}"
            files.write_text(path, content)
    print(text)
    if any(row["same_outputs"] != len(pixels) for row in rows if row["kernels"] == "reference"):
        sys.exit("not the same: the reference kernels give other outputs than in Python")
    return rows


def _parser():
    parser = argparse.ArgumentParser(
        description="Runs a file on emulated microcontrollers and compares each output.",
        allow_abbrev=False,
    )
    parser.add_argument("tflite", type=pathlib.Path, metavar="FILE", help="a .tflite file for TFLM")
    source.add_arguments(parser)
    parser.add_argument("--tflm-dir", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--build-dir", type=pathlib.Path, metavar="DIR", help="keeps what is built")
    parser.add_argument("--out-dir", type=pathlib.Path, metavar="DIR")
    return parser


def _loaded(path):
    converted = runtimes.load(path)
    if converted.runtime != "tflm":
        raise ValueError(
            f"{path} must be a file for TFLM, it is for {runtimes.RUNTIMES[converted.runtime]}: "
            "convert.py --runtime tflm writes one."
        )
    return converted


def _expected(converted, pixels):
    """What main.cc prints of images, as TFLM in Python computes it."""
    outputs = tflm.predict(converted.tflite, converted.as_input(pixels))
    return outputs.astype(int) - converted.interface()[1].zero_point


def _rows(build, tflm_dir, expected):
    """What the emulator says of each processor with each kind of kernels."""
    rows = []
    for cpu in MACHINES:
        for kernels in KERNELS:
            program = _built(build, cpu, kernels, tflm_dir)
            rows.append(_measured(program, cpu, kernels, expected))
    return rows


def _built(build, cpu, kernels, tflm_dir):
    folder = build / f"{cpu}_{kernels}"
    options = {
        "CMAKE_TOOLCHAIN_FILE": HERE / "cortex_m.cmake",
        "CPU": cpu,
        "CMSIS_NN": KERNELS[kernels],
        "TFLM_DIR": tflm_dir.resolve(),
        "MODEL": (build / "model.h").resolve(),
    }
    words = [f"-D{name}={value}" for name, value in options.items()]
    _said("cmake", "-S", str(HERE), "-B", str(folder), *words)
    _said("cmake", "--build", str(folder), "--parallel", str(os.cpu_count()))
    return folder / "main"


def _measured(program, cpu, kernels, expected):
    """What the emulator says; a nanosecond of its timers is one instruction (shift=0)."""
    said = _said(
        *("qemu-system-arm", "-M", MACHINES[cpu], "-nographic", "-monitor", "none"),
        *("-serial", "none", "-icount", "shift=0", "-kernel", str(program)),
        *("-semihosting-config", "enable=on,target=native"),
        folder=program.parent.parent,
    )
    *lines, total = said.splitlines()
    outputs = np.array([line.split()[-expected.shape[1] :] for line in lines], int)
    words = total.split()  # "200 images, 350000 us, 66260 bytes of the arena"
    sizes = dict(
        line.split()[:2]
        for line in _said("arm-none-eabi-size", "-A", str(program)).splitlines()
        if line.startswith(".")
    )
    return {
        "cpu": cpu,
        "kernels": kernels,
        "text": int(sizes[".text"]),
        "rodata": int(sizes[".rodata"]),
        "ram": int(sizes[".data"]) + int(sizes[".bss"]),
        "arena_used": int(words[4]),
        "instructions": round(int(words[2]) * 1e3 / len(expected)),
        "same_outputs": int((outputs == expected).all(axis=1).sum()),
        "same_class": int((outputs.argmax(axis=1) == expected.argmax(axis=1)).sum()),
    }


def _said(*command, folder=None):
    """What a program prints; a ValueError with the end of what it says if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise ValueError(f"{command[0]} is needed, and not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{command[0]} takes more than {SECONDS} s.") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:MOST_SAID]
        raise ValueError(f"{' '.join(command[:3])} failed: {said}")
    return done.stdout


def _commit(tflm_dir):
    """The commit of a checkout; None if it is no git repository of its own."""
    command = ["git", "-C", str(tflm_dir), "rev-parse", "--show-toplevel", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    folder, _, commit = done.stdout.strip().partition("\n")
    return commit if folder and pathlib.Path(folder) == tflm_dir.resolve() else None


def markdown(result):
    """What was measured, for people."""
    rows = [
        [f"{row[key]:,}" if isinstance(row[key], int) else row[key] for key, _ in COLUMNS]
        for row in result["rows"]
    ]
    return (
        f"# {result['model']} on emulated microcontrollers\n\n"
        f"{result['file']}, {result['bytes']:,} bytes, part of .rodata; {result['images']} test "
        f"images of {result['dataset']}, compared with "
        "TFLM's interpreter in Python. Bytes of code, constants and memory of the whole program, "
        "with its output and start-up. Instructions are counted by the emulator: they are no "
        "time.\n\n"
        + files.table([title for _, title in COLUMNS], rows)
        + f"\nTFLM at {result['tflm'] or 'an unknown commit'}; {result['qemu']}; {result['gcc']}.\n"
    )


if __name__ == "__main__":
    main()
