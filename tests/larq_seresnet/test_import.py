"""What an import does to tf.keras, each case in a process of its own."""

import os
import subprocess
import sys

import pytest


def _run(code):
    env = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env
    )


@pytest.mark.parametrize("first", ["", "import tensorflow; "])
def test_keras_2_is_what_tf_keras_is(first):
    process = _run(
        f"{first}import larq_seresnet, tensorflow as tf\n"
        "from tensorflow.keras.layers import Dense\n"
        "assert Dense is tf.keras.layers.Dense\n"
        "print(tf.keras.Model.__module__.split('.')[0])"
    )
    assert process.stdout.strip() == "tf_keras", process.stderr


def test_too_late_is_one_clear_error():
    process = _run("import tensorflow as tf; tf.keras.Model; import larq_seresnet")
    assert process.returncode == 1
    assert (
        process.stderr.strip()
        .splitlines()[-1]
        .startswith("ImportError: larq_seresnet needs Keras 2")
    )
    assert "TF_USE_LEGACY_KERAS=1" in process.stderr
