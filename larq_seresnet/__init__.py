"""SEResNet14 with 1-bit weights and channel Feature Map Binarization, as a Keras application."""

import importlib.util
import os
import pathlib


def _use_keras_2():
    """Makes ``tf.keras`` Keras 2 (the package tf_keras), for which larq is written.

    Raises:
        ImportError: If this process already uses ``tf.keras`` as Keras 3.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    if not tf.keras.Model.__module__.startswith("tf_keras."):
        raise ImportError(
            "larq_seresnet needs Keras 2, but this process already uses tf.keras as Keras 3. "
            "Import larq_seresnet before anything that touches tf.keras, or set the environment "
            "variable TF_USE_LEGACY_KERAS=1 before Python starts; and use tf.keras, for layers of "
            "the package keras do not fit its models."
        )
    # `import tensorflow.keras` follows the package's path, which was laid out when TensorFlow was
    # imported: for Keras 3, if that came first.
    keras_2 = str(
        pathlib.Path(importlib.util.find_spec("tf_keras.api._v2.keras").origin).parents[1]
    )
    if keras_2 not in tf.__path__:
        tf.__path__.insert(0, keras_2)


# Without AVX-512 TensorFlow leaves oneDNN off, and trains more slowly (results/throughput.md). Too
# late if it is imported already.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
_use_keras_2()

from larq_seresnet.images import read_image
from larq_seresnet.layers import FMB, SqueezeExcite
from larq_seresnet.precision import ScaledSign
from larq_seresnet.preprocessing import decode_predictions, preprocess_input
from larq_seresnet.seresnet import SEResNet14
from larq_seresnet.weights import load_weights, save_weights

__all__ = [
    "FMB",
    "SEResNet14",
    "ScaledSign",
    "SqueezeExcite",
    "decode_predictions",
    "load_weights",
    "preprocess_input",
    "read_image",
    "save_weights",
]
__version__ = "0.2.0.dev0"
