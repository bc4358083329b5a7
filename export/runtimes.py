"""The two runtimes that compute a .tflite file here: LCE's own, and stock LiteRT."""

import dataclasses

import numpy as np
from ai_edge_litert.interpreter import Interpreter as LiteRTInterpreter
from larq_compute_engine.tflite.python.interpreter import Interpreter as LCEInterpreter

from larq_seresnet.export import flatbuffer

RUNTIMES = ("lce", "litert")
LITERT_TYPES = ("INT2", "INT4")


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted model and the runtime it is for.

    Attributes:
        tflite: The file's bytes.
        runtime: One of `RUNTIMES`.
    """

    tflite: bytes
    runtime: str

    def interface(self):
        """What goes in and out: two `flatbuffer.TensorFacts`."""
        return flatbuffer.interface(flatbuffer.read(self.tflite))

    def predict(self, images):
        """Outputs for images, one image at a time, in one thread.

        Args:
            images: What the file takes, (N, H, W, C).

        Returns:
            (N, num_classes), float32 also where the file gives int8; a list of arrays if the file
            has several outputs.
        """
        if self.runtime == "lce":
            outputs = LCEInterpreter(self.tflite).predict(images)
        else:
            outputs = _predict_litert(self.tflite, images)
        _, given = self.interface()
        if isinstance(outputs, list):
            return [given.real(outputs[0]), *outputs[1:]]
        return given.real(outputs)


def _predict_litert(tflite, images):
    interpreter = LiteRTInterpreter(model_content=tflite)
    interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]["index"]
    given = [each["index"] for each in interpreter.get_output_details()]
    outputs: list[list[np.ndarray]] = [[] for _ in given]
    for image in images:
        interpreter.set_tensor(taken, image[np.newaxis])
        interpreter.invoke()
        for kept, index in zip(outputs, given, strict=True):
            kept.append(interpreter.get_tensor(index))
    arrays = [np.concatenate(kept) for kept in outputs]
    return arrays[0] if len(arrays) == 1 else arrays


def load(path, runtime=None):
    """Reads a .tflite file and makes sure that its runtime takes it.

    Args:
        path: A `pathlib.Path`.
        runtime: One of `RUNTIMES`; None for the one it is for.

    Returns:
        A `Converted`.

    Raises:
        ValueError: If it is no .tflite file, was cut off, or is for the other runtime.
        OSError: If it cannot be read.
    """
    tflite = path.read_bytes()
    try:
        LiteRTInterpreter(model_content=tflite or b"empty")  # proves the flatbuffer whole
    except ValueError as error:
        raise ValueError(
            f"{path} is no .tflite file, or was cut off ({error}): convert.py writes one."
        ) from error
    content = flatbuffer.read(tflite)
    custom = [name for name in flatbuffer.count_operators(content) if name.startswith("Lce")]
    types = flatbuffer.tensor_types(content) & set(LITERT_TYPES)
    if runtime == "litert" and custom:
        raise ValueError(f"{path} is for LCE's runtime, it holds {custom[0]}: use --runtime lce.")
    if runtime == "lce" and types:
        raise ValueError(
            f"{path} is for LiteRT, it holds {types.pop()} filters: use --runtime litert."
        )
    return Converted(tflite, runtime or ("lce" if custom else "litert"))
