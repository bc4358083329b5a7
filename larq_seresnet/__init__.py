"""SEResNet14 with 1-bit weights and channel Feature Map Binarization, as a Keras application."""

import contextlib
import importlib.util
import os
import pathlib
import sys
import tempfile


def _is_program():
    """Whether a program of this project imports the package, by whichever way it was started."""
    path = pathlib.Path((sys.argv or [""])[0])
    root = pathlib.Path(__file__).resolve().parents[1]
    folders = [root / name for name in ("training", "export", "examples")]
    of_module = path.name == "-m" and any(
        word.split(".")[0] in ("larq_seresnet", "-mlarq_seresnet") for word in sys.orig_argv
    )
    return (
        of_module
        or path.name == "larq-seresnet"
        or any(path.resolve().is_relative_to(folder) for folder in folders)
    )


@contextlib.contextmanager
def _quiet_start():
    """Keeps back TensorFlow's first lines where TF_CPP_MIN_LOG_LEVEL asks for it.

    TensorFlow 2.21 writes them to standard error before it reads that variable.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0" or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _use_keras_2():
    """Makes ``tf.keras`` Keras 2 (the package tf_keras), for which larq is written.

    Raises:
        ImportError: If this process already uses ``tf.keras`` as Keras 3.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    with _quiet_start():
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


if _is_program():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Without AVX-512 TensorFlow leaves oneDNN off, and trains more slowly (results/throughput.md). Too
# late if it is imported already.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
_use_keras_2()

from larq_seresnet.images import read_image
from larq_seresnet.layers import FMB, SpatialAttention, SqueezeExcite
from larq_seresnet.precision import ScaledSign
from larq_seresnet.preprocessing import decode_predictions, preprocess_input
from larq_seresnet.seresnet import SEResNet14, from_weights
from larq_seresnet.sizes import SEResNet14M, SEResNet14S, SEResNet14XS
from larq_seresnet.weights import load_weights, save_weights

__all__ = [
    "FMB",
    "SEResNet14",
    "SEResNet14M",
    "SEResNet14S",
    "SEResNet14XS",
    "ScaledSign",
    "SpatialAttention",
    "SqueezeExcite",
    "decode_predictions",
    "from_weights",
    "load_weights",
    "preprocess_input",
    "read_image",
    "save_weights",
]
__version__ = "0.2.0.dev0"
