"""What arguments may be, and what is said where they are not."""

import numbers

import tensorflow as tf

#: Channels of the stages in He et al.'s network for CIFAR-10.
FILTERS = (16, 32, 64)


def configuration_name(configuration):
    """What of the arguments of `SEResNet14` is not the default, after what always matters.

    Args:
        configuration: All of them but `input_tensor`, `weights` and `name`: a dict.
    """
    parts = ["seresnet14", configuration["precision"]]
    if configuration["attention"] is None:
        parts.append("no_se")
    else:
        parts += [configuration["attention"], configuration["activation"]]
        if configuration["fmb"]:
            through = configuration["fmb_gradient"] == "straight_through"
            parts.append("fmb" if through else "fmb_no_gradient")
        if configuration["reduction_ratio"] != 1:
            parts.append(f"r{configuration['reduction_ratio']}")
    if configuration["shortcut"] != "pool":
        parts.append(f"{configuration['shortcut']}_shortcut")
    if configuration["head"] != "norm":
        parts.append(f"{configuration['head']}_head")
    if configuration["shift"]:
        parts.append("shift")
    if configuration["ends"]:
        parts.append(f"{configuration['ends']}_ends")
    if tuple(configuration["filters"]) != FILTERS:
        parts.append("-".join(map(str, configuration["filters"])))
    if not configuration["include_top"]:
        parts.append("no_top")
    return "_".join(parts)


def check_choice(name, value, allowed):
    """Raises ValueError naming the argument, what is allowed and what was received."""
    if value not in tuple(allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}, received {value!r}.")


def is_count(value):
    """Whether a value is a positive integer of any kind; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


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
