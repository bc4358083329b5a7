"""What arguments may be, and what is said where they are not."""

import numbers

import tensorflow as tf


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
