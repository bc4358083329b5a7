"""What is on a photograph, by the weights that ship:

python examples/predict.py cat.jpg
"""

import sys

import numpy as np
import tensorflow as tf

from larq_seresnet import SEResNet14, decode_predictions, preprocess_input  # before tf.keras

model = SEResNet14()
image = tf.keras.utils.load_img(
    sys.argv[1], target_size=(32, 32), interpolation="box", keep_aspect_ratio=True
)
pixels = np.asarray(image)[np.newaxis]  # uint8, 0..255, (1, 32, 32, 3)
(best,) = decode_predictions(model.predict(preprocess_input(pixels), verbose=0), top=3)
for name, probability in best:
    print(f"{name} {probability:.1%}")
