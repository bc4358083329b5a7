"""From Keras to a device: converts the model that ships, and runs what that gives on an image.

    python examples/run_in_litert.py cat.jpg

`export/convert.py` also proves and writes the file; `export/raspberry_pi/classify.py` runs it on a
device, without TensorFlow.
"""

import argparse

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from larq_seresnet import SEResNet14, decode_predictions, programs, read_image
from larq_seresnet.export import convert

parser = argparse.ArgumentParser(prog="run_in_litert.py")
parser.add_argument("photograph")
arguments = parser.parse_args()

with programs.refusing_bad_input(parser):
    image = read_image(arguments.photograph)  # uint8, 0..255, (32, 32, 3)
    converted = convert.to_tflite(SEResNet14(), "litert", input_type="uint8", strip=True)
print(f"{len(converted.tflite):,} bytes")  # what a .tflite file holds

interpreter = Interpreter(model_content=converted.tflite)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print(*decode_predictions(probabilities, top=3)[0])
