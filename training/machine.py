"""What computes: the processor, what it does where it has no bfloat16, and the memory it has."""

import contextlib
import functools
import pathlib
import platform

import psutil

import tensorflow as tf

_CPUS = pathlib.Path("/proc/cpuinfo")
_CGROUPS, _OWN_CGROUPS = pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/proc/self/cgroup")
#: Of a control group, what it may take of the memory, what it takes, and which of its statistics
#: tells how much of that the system would give back: files it has read. In either version.
_LIMITED = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def processor():
    """Its name, such as "AMD EPYC"; where there is none its architecture."""
    names = [line.split(":")[1].strip() for line in _lines(_CPUS) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_bfloat16():
    """Whether the processor that trains multiplies bfloat16 itself; emulated it is slower."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    flags = {flag for line in _lines(_CPUS) if line.startswith("flags") for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def free_memory():
    """Bytes that are free here: of the machine, or of what a container or a job may take of it."""
    return min([psutil.virtual_memory().available, *_left_by_control_groups()])


def _left_by_control_groups():
    """What each limit on this process leaves, on its group and on those around that."""
    for line in _lines(_OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        group = pathlib.PurePath(path.lstrip("/"))
        for folder in (group, *group.parents):  # in a container the path may be the host's
            place = _CGROUPS / controllers / folder
            for *names, given_back in _LIMITED:
                with contextlib.suppress(OSError, ValueError):  # no such group, or no limit: "max"
                    limit, taken = (int((place / name).read_text()) for name in names)
                    statistics = dict(line.split() for line in _lines(place / "memory.stat"))
                    yield limit - taken + int(statistics.get(given_back, 0))


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


def _lines(path):
    return path.read_text().splitlines() if path.exists() else []
