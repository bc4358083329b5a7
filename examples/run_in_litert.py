"""From Keras to a device: converts the model that ships, and runs the file on an image.

    python examples/run_in_litert.py cat.jpg

`export/convert.py` also proves the file; `export/raspberry_pi/classify.py` runs it on a device,
without TensorFlow.
"""

import argparse
import pathlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

from larq_seresnet import SEResNet14, decode_predictions
from larq_seresnet.export import convert

parser = argparse.ArgumentParser()
parser.add_argument("photograph")
arguments = parser.parse_args()

converted = convert.to_tflite(SEResNet14(), "litert", input_type="uint8", strip=True)
pathlib.Path("model.tflite").write_bytes(converted.tflite)
print(f"model.tflite: {len(converted.tflite):,} bytes")

image = ImageOps.exif_transpose(Image.open(arguments.photograph))  # phones turn by a note
image = ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BOX)
interpreter = Interpreter("model.tflite")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.asarray(image)[np.newaxis])
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print(*decode_predictions(probabilities, top=3)[0])
