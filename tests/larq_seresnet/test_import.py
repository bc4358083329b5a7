"""What an import does to tf.keras, each case in a process of its own."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def _run(code, **variables):
    unset = ("TF_USE_LEGACY_KERAS", "TF_ENABLE_ONEDNN_OPTS")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=env | variables,
        cwd=ROOT,
    )


IS_KERAS_2 = """
import sys, tensorflow as tf
from tensorflow.keras.layers import Dense
assert Dense is tf.keras.layers.Dense
assert tf.keras.Model.__module__.startswith("tf_keras.")
assert not any(name.startswith("larq_seresnet.training.study") for name in sys.modules)
"""


def test_keras_2_is_what_tf_keras_is_though_tensorflow_came_first():
    """And the application needs nothing of what trains or converts it."""
    others = "larq_seresnet.training", "larq_seresnet.export"
    process = _run(
        f"import tensorflow, larq_seresnet\n{IS_KERAS_2}\n"
        f"assert not any(name.startswith({others}) for name in sys.modules)"
    )
    assert process.returncode == 0, process.stderr


def test_too_late_is_one_clear_error():
    process = _run("import tensorflow as tf; tf.keras.Model; import larq_seresnet")
    assert process.returncode == 1
    assert (
        process.stderr.strip()
        .splitlines()[-1]
        .startswith("ImportError: larq_seresnet needs Keras 2")
    )
    assert "TF_USE_LEGACY_KERAS=1" in process.stderr


@pytest.mark.parametrize(
    ("code", "variables", "enabled"),
    [
        ("import larq_seresnet", {}, "True"),
        ("import larq_seresnet", {"TF_ENABLE_ONEDNN_OPTS": "0"}, "False"),
        ("import runpy; runpy.run_path('training/train.py')", {}, "True"),
    ],
)
def test_keras_2_and_onednn_unless_it_is_switched_off(code, variables, enabled):
    """oneDNN is for x86. And what train.py imports is nothing of the study."""
    process = _run(
        f"{code}\n{IS_KERAS_2}\n"
        "from tensorflow.python.util import _pywrap_util_port\n"
        "print(_pywrap_util_port.IsMklEnabled())",
        **variables,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == enabled or platform.machine() != "x86_64"
