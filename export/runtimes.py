"""The runtimes that compute a .tflite file here: LCE's own, stock LiteRT, and TFLM."""

import dataclasses

import numpy as np
from ai_edge_litert.interpreter import Interpreter as LiteRTInterpreter
from larq_compute_engine.tflite.python.interpreter import Interpreter as LCEInterpreter

from larq_seresnet import files
from larq_seresnet.export import anatomy, flatbuffer, tflm, trial
from larq_seresnet.preprocessing import preprocess_input

#: By runtime what people call it.
RUNTIMES = {"lce": "LCE", "litert": "LiteRT", "tflm": "TFLM"}
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
        """What goes in and out: two `anatomy.TensorFacts`."""
        return anatomy.interface(flatbuffer.read(self.tflite))

    def as_input(self, images):
        """Image bytes, uint8 (N, H, W, 3), as the file takes them: themselves, or normalised."""
        taken = self.interface()[0]
        return images if taken.dtype == np.uint8 else taken.stored(preprocess_input(images))

    def session(self, threads=1):
        """What computes one image at a time: `feed` it, `invoke`, take the `outputs`."""
        kinds = {"lce": _LCESession, "litert": _LiteRTSession, "tflm": _TFLMSession}
        return kinds[self.runtime](self.tflite, threads)

    def predict(self, images):
        """Outputs for images, one image at a time, in one thread; TFLM's on all cores.

        Args:
            images: What the file takes, (N, H, W, C).

        Returns:
            (N, num_classes), float32 also where the file gives int8; a list of arrays if the file
            has several outputs.
        """
        output_facts = self.interface()[1]
        if self.runtime == "tflm":
            return output_facts.real(tflm.predict(self.tflite, images))
        session = self.session()
        outputs = []
        for image in images:
            session.feed(image[np.newaxis])
            session.invoke()
            outputs.append(session.outputs())
        probabilities, *others = (np.concatenate(each) for each in zip(*outputs, strict=True))
        probabilities = output_facts.real(probabilities)
        return [probabilities, *others] if others else probabilities


class _LCESession:
    """LCE's interpreter, whose `invoke` copies input and outputs too."""

    def __init__(self, tflite, threads):
        self._interpreter = LCEInterpreter(tflite, threads).interpreter

    def feed(self, image):
        self._image = image

    def invoke(self):
        self._outputs = self._interpreter.predict([self._image])

    def outputs(self):
        return self._outputs


class _LiteRTSession:
    """LiteRT's interpreter with its defaults, XNNPACK among them."""

    def __init__(self, tflite, threads):
        self._interpreter = LiteRTInterpreter(model_content=tflite, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._given = [each["index"] for each in self._interpreter.get_output_details()]

    def feed(self, image):
        self._interpreter.set_tensor(self._input, image)

    def invoke(self):
        self._interpreter.invoke()

    def outputs(self):
        return [self._interpreter.get_tensor(index) for index in self._given]


class _TFLMSession:
    """TFLM's interpreter with its reference kernels, which know one thread."""

    def __init__(self, tflite, threads):
        tflm.check_installed()
        self._interpreter = tflm.interpreter(tflite)

    def feed(self, image):
        self._interpreter.set_input(image, 0)

    def invoke(self):
        self._interpreter.invoke()

    def outputs(self):
        return [self._interpreter.get_output(0)]


def load(path, runtime=None):
    """Reads a .tflite file and makes sure that its runtime takes it.

    Args:
        path: A `pathlib.Path`.
        runtime: One of `RUNTIMES`; None for the one it is for.

    Returns:
        A `Converted`.

    Raises:
        ValueError: If it is no .tflite file, was cut off, is for another runtime, or the runtime
            refuses it, crashes or never ends.
        OSError: If it cannot be read.
    """
    tflite = path.read_bytes()
    problem = files.trial(trial.__file__, content=tflite)
    if problem:
        raise ValueError(
            f"{path} is no .tflite file, or was cut off ({problem}): convert.py writes one."
        )
    content = flatbuffer.read(tflite)
    try:
        anatomy.check(content)
    except ValueError as error:
        raise ValueError(f"{path} is not of convert.py's kind: {error}.") from error
    made_for, because = _made_for(content)
    runtime = runtime or made_for
    if because and runtime != made_for:
        raise ValueError(
            f"{path} is for {RUNTIMES[made_for]}, it {because}: use --runtime {made_for}."
        )
    if runtime == "tflm":
        tflm.check_installed()
    problem = files.trial(trial.__file__, runtime, content=tflite)
    if problem:
        raise ValueError(f"{path} is damaged, or needs another version of {runtime}: {problem}.")
    return Converted(tflite, runtime)


def _made_for(content):
    """The runtime that a file is for, and what of it no other one computes; None if others may."""
    operators = anatomy.count_operators(content)
    custom = [name for name in operators if name.startswith("Lce")]
    types = anatomy.tensor_types(content) & set(LITERT_TYPES)
    if custom:
        return "lce", f"holds {custom[0]}"
    if tflm.DECODE in operators:
        return "tflm", f"holds {tflm.DECODE}"
    if anatomy.interface(content)[0].dtype == np.int8:
        return "tflm", None
    return "litert", f"holds {types.pop()} filters" if types else None
