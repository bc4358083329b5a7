"""Runs a .tflite file in a process of its own, which a damaged one may crash.

    python trial.py [lce|litert|tflm] < FILE.tflite

Without a runtime it only proves the flatbuffer whole. What the runtime says against a file stands
on standard output. TensorFlow is not imported, so that it takes a fraction of a second.
"""

import importlib.util
import sys
import types

import numpy as np

#: What LiteRT says against files for TFLM, which takes one zero point for all channels.
ONE_ZERO_POINT = "QuantizationParam has 1 zero_point values"


def main(tflite, runtime=None):
    """Computes one image of zeros.

    Raises:
        Exception: If the runtime does not take the file; each runtime has its own kinds.
    """
    from ai_edge_litert.interpreter import Interpreter

    if runtime == "tflm":
        _tflm(tflite)
        return
    try:
        interpreter = Interpreter(model_content=tflite or b"empty")
    except ValueError as problem:
        if runtime or ONE_ZERO_POINT not in str(problem):
            raise
        return  # by then the flatbuffer was proved whole
    if runtime is None:
        return
    (taken,) = interpreter.get_input_details()
    image = np.zeros(taken["shape"], taken["dtype"])
    if runtime == "lce":
        _lce(tflite).predict([image])
        return
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], image)
    interpreter.invoke()
    for given in interpreter.get_output_details():
        interpreter.get_tensor(given["index"])


def _lce(tflite):
    """LCE's interpreter without what the package itself imports: its converter, TensorFlow."""
    name = "larq_compute_engine"
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter(tflite).interpreter


def _tflm(tflite):
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(tflite, arena_size=2**26)
    taken = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(taken["shape"], taken["dtype"]), 0)
    interpreter.invoke()


if __name__ == "__main__":
    try:
        main(sys.stdin.buffer.read(), *sys.argv[1:])
    except Exception as problem:
        print(" ".join(str(problem).split()) or repr(problem))
