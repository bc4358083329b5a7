"""What computes: the processor by name, and what it does where it has no bfloat16."""

import functools
import pathlib
import platform

import tensorflow as tf


def processor():
    """Its name, such as "AMD EPYC"; where there is none its architecture."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_bfloat16():
    """Whether the processor that trains multiplies bfloat16 itself; emulated it is slower."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    flags = {flag for line in _cpuinfo() if line.startswith("flags") for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def convolve_in_float32(model):
    """On a processor without bfloat16, lets a model's convolutions in it multiply in float32.

    Emulated, a training takes 8.5 times as long (results/throughput.md). Inputs, kernels and
    results are rounded to bfloat16 as before, and products summed in float32 are what processors
    with bfloat16 compute, too. So a run that one of these or a GPU began goes on here.
    """
    if has_bfloat16():
        return
    for layer in model.submodules:
        if isinstance(layer, tf.keras.layers.Conv2D) and layer.compute_dtype == "bfloat16":
            layer.convolution_op = functools.partial(_in_float32, layer.convolution_op)


def _in_float32(convolution, inputs, kernel):
    return tf.cast(
        convolution(tf.cast(inputs, tf.float32), tf.cast(kernel, tf.float32)), "bfloat16"
    )


def _cpuinfo():
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
