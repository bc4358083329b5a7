"""What arguments may be, and what is said where they are not."""

import numbers

import tensorflow as tf

#: Channels of the stages in He et al.'s network for CIFAR-10.
FILTERS = (16, 32, 64)
#: What each size fixes: even widths, 8-bit weights at the ends, a narrow attention, and for 1-bit
#: inputs the shift.
SIZES = {
    name: {"filters": filters, "ends": "int8", "reduction_ratio": 4, "shift": True}
    for name, filters in (
        ("SEResNet14XS", (16, 32, 32)),
        ("SEResNet14S", (32, 48, 48)),
        ("SEResNet14M", (32, 64, 80)),
    )
}


def configuration_name(configuration):
    """What of the arguments of `SEResNet14` is not the default, after what always matters.

    The name begins with that of the size they are of, and says no more what that fixes.

    Args:
        configuration: All of them but `input_tensor`, `weights` and `name`: a dict.
    """
    size, fixed = _size(configuration)
    parts = [size.lower(), configuration["precision"]]
    if configuration["attention"] is None:
        parts.append("no_se")
    else:
        parts += [configuration["attention"], configuration["activation"]]
        if configuration["fmb"]:
            through = configuration["fmb_gradient"] == "straight_through"
            parts.append("fmb" if through else "fmb_no_gradient")
        if configuration["reduction_ratio"] != 1 and "reduction_ratio" not in fixed:
            parts.append(f"r{configuration['reduction_ratio']}")
    if configuration["shortcut"] != "pool":
        parts.append(f"{configuration['shortcut']}_shortcut")
    if configuration["head"] != "norm":
        parts.append(f"{configuration['head']}_head")
    if configuration["shift"] and "shift" not in fixed:
        parts.append("shift")
    if configuration["ends"] and "ends" not in fixed:
        parts.append(f"{configuration['ends']}_ends")
    if tuple(configuration["filters"]) != FILTERS and "filters" not in fixed:
        parts.append(_joined(configuration["filters"]))
    if configuration["gate_at"] != "end":
        parts.append(f"gate_at_{configuration['gate_at']}")
    if configuration["inner"]:
        parts.append(f"inner{_joined(configuration['inner'])}")
    if configuration["outer"]:
        parts.append(f"outer{_joined(len(places) for places in configuration['outer'])}")
    if configuration["squeezed"]:
        parts.append(f"squeezed{_joined(configuration['squeezed'])}")
    if not configuration["include_top"]:
        parts.append("no_top")
    return "_".join(parts)


def _joined(numbers):
    return "-".join(map(str, numbers))


def _size(configuration):
    """The size that arguments are of, and what it fixes: SEResNet14 itself fixes nothing."""
    given = configuration | {"filters": tuple(configuration["filters"])}
    means_nothing = {
        "reduction_ratio": given["attention"] in (None, "spatial"),
        "ends": given["precision"] == "float32",
        "shift": given["precision"] != "w1a1",
    }
    for size, fixed in SIZES.items():
        if all(means_nothing.get(name) or given[name] == fixed[name] for name in fixed):
            return size, fixed
    return "SEResNet14", {}


def check_choice(name, value, allowed):
    """Raises ValueError naming the argument, what is allowed and what was received."""
    if value not in tuple(allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}, received {value!r}.")


def check_lines(name, values):
    """Raises ValueError for a text with a line break: labels.txt has a line for each class."""
    for value in values:
        if value.splitlines() not in ([], [value]):
            raise ValueError(f"`{name}` must be names without line breaks, received {value!r}.")


def is_count(value):
    """Whether a value is a positive integer of any kind; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


def are_ascending(places, count):
    """Whether something is one or more of the numbers from 0 to `count` - 1, in ascending order."""
    return (
        isinstance(places, (tuple, list))
        and len(places) > 0
        and all(place == 0 or is_count(place) for place in places)
        and list(places) == sorted(set(places))
        and places[-1] < count
    )


def check_keras_settings():
    """Raises ValueError where Keras's global settings, by keras.json or by code, do not fit."""
    for setting, allowed, received in (
        ("image_data_format", ("channels_last",), tf.keras.backend.image_data_format()),
        ("floatx", ("float32",), tf.keras.backend.floatx()),
        (
            "mixed_precision.global_policy",
            ("float32", "mixed_bfloat16", "mixed_float16"),
            tf.keras.mixed_precision.global_policy().name,
        ),
    ):
        if received not in allowed:
            choices = " or ".join(map(repr, allowed))
            raise ValueError(
                f"Keras's setting `{setting}` must be {choices}, received {received!r}."
            )
