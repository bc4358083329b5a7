"""What is on a photograph, by the weights that ship:

python examples/predict.py cat.jpg
"""

import argparse

import numpy as np
from PIL import Image, ImageOps

from larq_seresnet import SEResNet14, decode_predictions, preprocess_input

parser = argparse.ArgumentParser()
parser.add_argument("photograph")
arguments = parser.parse_args()

model = SEResNet14()
image = ImageOps.exif_transpose(Image.open(arguments.photograph))  # phones turn by a note
image = ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BOX)  # the middle square
pixels = np.asarray(image)[np.newaxis]  # uint8, 0..255, (1, 32, 32, 3)
(best,) = decode_predictions(model.predict(preprocess_input(pixels), verbose=0), top=3)
for name, probability in best:
    print(f"{name} {probability:.1%}")
