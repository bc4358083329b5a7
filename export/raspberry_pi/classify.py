"""Classifies images on a device: needs ai-edge-litert and numpy alone; most formats need Pillow.

    python classify.py litert_1bit_uint8_in.tflite cat.png

Takes a file that `convert.py --runtime litert --input-type uint8` wrote, and labels.txt, which it
wrote beside it. Reads images as training does, by the same images.py, which lies beside this file:
PNG and PPM by itself, with Pillow JPEG and others.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

try:
    from images import read_image
except ImportError:
    try:
        from larq_seresnet.images import read_image  # in a checkout, where it is the package's
    except ImportError:
        sys.exit("classify.py: error: images.py must lie beside it, see the README it came with")

MOST_THREADS = 256
MOST_NAMED = 3
TRIAL_SECONDS = 60
#: Computes an image of zeros in a process of its own, which a damaged file may crash.
TRIAL = """
import sys
sys.path = [place for place in sys.path if place]  # not the working directory
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=sys.stdin.buffer.read())
interpreter.allocate_tensors()
for details in interpreter.get_input_details():
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
interpreter.invoke()
"""


def main(argv=None):
    """Prints the most probable classes of each image."""
    parser = argparse.ArgumentParser(
        prog="classify.py", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("model", type=pathlib.Path, metavar="FILE", help="a .tflite file")
    parser.add_argument("image", type=pathlib.Path, nargs="+", help="PNG, PPM; others with Pillow")
    parser.add_argument(
        "--labels", type=pathlib.Path, metavar="FILE", help="default: labels.txt beside the model"
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help=f"classes (default: {MOST_NAMED}, or as many there are)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    arguments = parser.parse_args(argv)
    try:
        if not 1 <= arguments.threads <= MOST_THREADS:
            raise ValueError(
                f"--threads must be from 1 to {MOST_THREADS}, received {arguments.threads}."
            )
        interpreter = load_model(arguments.model, arguments.threads)
        labels = load_labels(arguments.labels or arguments.model.with_name("labels.txt"))
        classes = interpreter.get_output_details()[0]["shape"][-1]
        if len(labels) != classes:
            raise ValueError(f"--labels must name {classes} classes, received {len(labels)}.")
        top = min(MOST_NAMED, classes) if arguments.top is None else arguments.top
        if not 1 <= top <= classes:
            raise ValueError(f"--top must be from 1 to {classes}, received {top}.")
        for path in arguments.image:
            probabilities, seconds = classify(interpreter, path)
            best = np.argsort(-probabilities, kind="stable")[:top]
            named = ", ".join(f"{labels[index]} {probabilities[index]:.1%}" for index in best)
            print(f"{path}: {named} ({1e3 * seconds:.2f} ms)")
    except (ValueError, OSError) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    except RuntimeError as problem:
        parser.exit(1, f"{parser.prog}: error: {arguments.model} failed: {_first_line(problem)}\n")


def load_model(path, threads=1):
    """An interpreter of a file that takes image bytes.

    Raises:
        ValueError: If it is no such file, or this version of LiteRT does not take it.
    """
    content = path.read_bytes()
    _check_alive(path, content)
    try:
        interpreter = Interpreter(model_content=content or b"empty", num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if "Lce" in str(error):
            raise ValueError(
                f"{path} is for LCE ({_first_line(error)}): convert with --runtime litert."
            ) from error
        raise ValueError(
            f"this LiteRT does not take {path} ({_first_line(error)}): see the table of "
            f"versions in export/raspberry_pi/README.md."
        ) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check_tensor(
        path, inputs, "take", (np.uint8,), (1, None, None, 3), "--runtime litert --input-type uint8"
    )
    _check_tensor(path, outputs, "give", (np.float32, np.int8), (1, None), "this project")
    return interpreter


def _check_alive(path, content):
    """Refuses a file that would take this process with it."""
    command = [sys.executable, "-c", TRIAL]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        done = None
    except OSError:
        return  # of a machine that starts no second process, as QEMU does not
    if done is None or done.returncode < 0:
        raise ValueError(f"{path} is damaged: LiteRT crashes on it, or never ends.")


def _check_tensor(path, details, verb, dtypes, shape, how):
    """Refuses tensors other than one of these types and this shape, None for any size."""
    if len(details) == 1 and details[0]["dtype"] in dtypes:
        sizes = details[0]["shape"]
        if len(sizes) == len(shape) and all(
            a in (None, b) for a, b in zip(shape, sizes, strict=True)
        ):
            return
    wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    found = ", ".join(f"{np.dtype(each['dtype']).name} {tuple(each['shape'])}" for each in details)
    raise ValueError(f"{path} must {verb} {wanted} ({sizes}), not {found}: convert with {how}.")


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_labels(path):
    """The lines of a file, one class each."""
    if not path.exists():
        raise ValueError(f"{path} is missing: copy the labels.txt that convert.py wrote, too.")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, one class a line: {error}") from error


def classify(interpreter, path):
    """Probabilities of one image file, and the seconds that the model took."""
    (input_details,) = interpreter.get_input_details()
    (output_details,) = interpreter.get_output_details()
    _, height, width, _ = input_details["shape"].tolist()
    interpreter.set_tensor(input_details["index"], read_image(path, (height, width))[np.newaxis])
    started = time.perf_counter()
    interpreter.invoke()
    seconds = time.perf_counter() - started
    output = interpreter.get_tensor(output_details["index"])[0]
    if output.dtype == np.int8:
        scale, zero_point = output_details["quantization"]
        output = (output.astype(np.float32) - zero_point) * scale
    return output, seconds


if __name__ == "__main__":
    sys.exit(main())
