"""What computes: the processor by name, and whether it has bfloat16."""

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


def _cpuinfo():
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
