"""Runs a .tflite file in a process of its own, which a damaged one may crash.

    python trial.py [lce|litert|tflm [resident]] < FILE.tflite

Without a runtime it only proves the flatbuffer whole. What the runtime says against a file stands
on standard output; with "resident", the bytes by which the process has grown. TensorFlow is not
imported, so that it takes a fraction of a second.
"""

import importlib
import importlib.util
import pathlib
import sys
import types

import numpy as np

#: What LiteRT says against files for TFLM, which takes one zero point for all channels.
ONE_ZERO_POINT = "QuantizationParam has 1 zero_point values"


def main(tflite, runtime=None):
    """Computes one image of zeros.

    Returns:
        The interpreter that did, if there was one.

    Raises:
        Exception: If the runtime does not take the file; each runtime has its own kinds.
    """
    if runtime == "tflm":
        return _tflm(tflite)
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=tflite or b"empty")
    except ValueError as problem:
        if runtime or ONE_ZERO_POINT not in str(problem):
            raise
        return None  # by then the flatbuffer was proved whole
    if runtime is None:
        return None
    (input_details,) = interpreter.get_input_details()
    image = np.zeros(input_details["shape"], input_details["dtype"])
    if runtime == "lce":
        interpreter = _lce().Interpreter(tflite).interpreter
        interpreter.predict([image])
        return interpreter
    interpreter.allocate_tensors()
    interpreter.set_tensor(input_details["index"], image)
    interpreter.invoke()
    for output in interpreter.get_output_details():
        interpreter.get_tensor(output["index"])
    return interpreter


def grown(tflite, runtime):
    """The bytes by which this process grows from a runtime that is loaded to an image classified.

    Raises:
        OSError, ImportError: On systems that do not say, others than Linux.
        Exception: As `main` does.
    """
    if runtime == "lce":
        _lce()
    importlib.import_module("tflite_micro" if runtime == "tflm" else "ai_edge_litert.interpreter")
    before = _resident()
    interpreter = main(tflite, runtime)
    after = _resident()
    del interpreter
    return after - before


def _resident():
    import resource  # not on Windows

    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def _lce():
    """LCE's interpreter without what the package itself imports: its converter, TensorFlow."""
    name = "larq_compute_engine"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
        sys.modules[name] = package
    return importlib.import_module(f"{name}.tflite.python.interpreter")


def _tflm(tflite):
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(tflite, arena_size=2**26)
    input_details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(input_details["shape"], input_details["dtype"]), 0)
    interpreter.invoke()
    return interpreter


if __name__ == "__main__":
    try:
        content = sys.stdin.buffer.read()
        if sys.argv[2:] == ["resident"]:
            print(grown(content, sys.argv[1]))
        else:
            main(content, *sys.argv[1:])
    except Exception as problem:
        print(" ".join(str(problem).split()) or repr(problem))
