"""What arguments may be, and what is said where they are not."""

import numbers


def check_choice(name, value, allowed):
    """Raises ValueError naming the argument, what is allowed and what was received."""
    if value not in tuple(allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}, received {value!r}.")


def is_count(value):
    """Whether a value is a positive integer of any kind; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0
