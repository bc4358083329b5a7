"""What is on a photograph, by the weights that ship:

python examples/predict.py cat.jpg
"""

import argparse

import numpy as np

from larq_seresnet import SEResNet14, decode_predictions, preprocess_input, programs, read_image

parser = argparse.ArgumentParser(prog="predict.py")
parser.add_argument("photograph")
arguments = parser.parse_args()

with programs.refusing_bad_input(parser):
    pixels = read_image(arguments.photograph)[np.newaxis]  # uint8, 0..255, (1, 32, 32, 3)
model = SEResNet14()
(best,) = decode_predictions(model.predict(preprocess_input(pixels), verbose=0), top=3)
for name, probability in best:
    print(f"{name} {probability:.1%}")
