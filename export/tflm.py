"""TFLM's interpreter, in processes of its own: it aborts on some of what it does not take.

    python tflm.py predict|arena < ARRAYS.npz > ARRAY.npy

Nothing but NumPy and `tflite-micro` is imported there, so that it starts in a fraction of a second.
"""

import concurrent.futures
import importlib.util
import io
import multiprocessing
import os
import subprocess
import sys

import numpy as np

#: TFLM's operator that makes INT8 filters of indices and tables.
DECODE = "TFLM_DECODE"
#: An arena is told in steps of so many bytes.
STEP = 16
MOST = 2**26


def is_installed():
    """Whether TFLM's package is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def check_installed():
    """Raises ValueError if it is not."""
    if not is_installed():
        raise ValueError(
            "--runtime tflm needs the package tflite-micro, which is not installed: "
            "pip install 'larq_seresnet[tflm]' installs the build that is tested."
        )


def predict(tflite, images):
    """Outputs for images, one image at a time, on as many cores as there are.

    Args:
        tflite: A file's bytes.
        images: What the file takes, (N, H, W, C), int8.

    Returns:
        (N, num_classes), int8.

    Raises:
        ValueError: If TFLM does not take the file; says why.
    """
    parts = np.array_split(images, max(1, min(os.cpu_count() or 1, len(images))))
    processes: list[subprocess.Popen] = []
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        asked = [
            pool.submit(_ask, "predict", processes, tflite=tflite, images=part) for part in parts
        ]
        try:
            return np.concatenate([each.result() for each in asked])
        except BaseException:
            for process in processes:
                process.kill()  # or the end of this one waits for theirs
            raise


def arena(tflite):
    """Bytes of memory that TFLM's interpreter needs for a file on this machine.

    With `STEP` less it refuses the file. A microcontroller needs less, since its pointers are half
    as long, unless its kernels take memory of their own.

    Raises:
        ValueError: If TFLM does not take the file; says why.
    """
    return int(_ask("arena", [], tflite=tflite))


def _ask(question, processes, tflite, **arrays):
    """Has a process of its own answer, which is appended to `processes`."""
    check_installed()
    buffer = io.BytesIO()
    np.savez(buffer, tflite=np.frombuffer(tflite, np.uint8), **arrays)
    command = [sys.executable, __file__, question]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        processes.append(process)
        answer, errors = process.communicate(buffer.getvalue())
    if process.returncode:
        raise ValueError(f"TFLM refuses the file: {_reason(process.returncode, errors)}")
    return np.load(io.BytesIO(answer))


def _reason(code, errors):
    """What a process said last, and before it what TFLM itself did."""
    of_tflm, _, of_python = errors.decode(errors="replace").partition("Traceback")
    last = [part.strip().splitlines()[-1] for part in (of_python, of_tflm) if part.strip()]
    return "; ".join(last) or f"the process ended with {code}"


def interpreter(tflite, size=MOST):
    """TFLM's interpreter with an arena of so many bytes; RuntimeError if that is too little."""
    from tflite_micro import runtime

    return runtime.Interpreter.from_bytes(tflite, arena_size=size)


def _predict(tflite, images):
    session, outputs = interpreter(tflite), []
    for image in images:
        session.set_input(image[np.newaxis], 0)
        session.invoke()
        outputs.append(session.get_output(0))
    return np.concatenate(outputs)


def _arena(tflite):
    interpreter(tflite)  # what it refuses whatever the arena is raised
    least, most = 0, MOST // STEP
    while least < most:
        middle = (least + most) // 2
        if _is_enough(tflite, middle * STEP):
            most = middle
        else:
            least = middle + 1
    return np.array(least * STEP)


def _is_enough(tflite, size):
    """Whether an arena is: in a process of its own, for in some that are too small TFLM crashes."""
    probe = multiprocessing.get_context("fork").Process(target=interpreter, args=(tflite, size))
    probe.start()
    probe.join()
    return probe.exitcode == 0


if __name__ == "__main__":
    given = dict(np.load(io.BytesIO(sys.stdin.buffer.read())))
    questions: dict = {"predict": _predict, "arena": _arena}
    np.save(sys.stdout.buffer, questions[sys.argv[1]](given.pop("tflite").tobytes(), **given))
