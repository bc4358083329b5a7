"""Three sizes of SEResNet14, their widths and ends chosen for accuracy per byte."""

import inspect

from larq_seresnet.arguments import SIZES
from larq_seresnet.seresnet import SEResNet14


def SEResNet14XS(**arguments):
    """SEResNet14 with filters (16, 32, 32), for files of about 20 kB with "w1"."""
    return _of_size("SEResNet14XS", arguments)


def SEResNet14S(**arguments):
    """SEResNet14 with filters (32, 48, 48), for files of about 40 kB with "w1"."""
    return _of_size("SEResNet14S", arguments)


def SEResNet14M(**arguments):
    """SEResNet14 with filters (32, 64, 80), for files of about 70 kB with "w1"."""
    return _of_size("SEResNet14M", arguments)


#: What the docstrings of all sizes go on with.
_COMMON = """

    It sets `filters`, `ends="int8"` (8-bit weights in stem and classifier), `reduction_ratio=4`
    and, with "w1a1", `shift=True`. Pretrained weights are those of "w1"; with another precision
    give `weights=None` or a file, such as ``{name}(precision="w1a1", weights=None)``.

    Args:
        **arguments: The other arguments of `SEResNet14`, with the same defaults.

    Returns:
        What `SEResNet14` returns.

    Raises:
        TypeError: If an argument is one that the size sets.
        ValueError: As for `SEResNet14`.
    """


def _of_size(size, arguments):
    fixed = SIZES[size]
    for name in fixed.keys() & arguments.keys():
        raise TypeError(
            f"`{name}` is {fixed[name]!r} in {size}, received {arguments[name]!r}: SEResNet14 "
            f"takes others."
        )
    return SEResNet14(**fixed, **arguments)


_OPEN = [
    parameter
    for name, parameter in inspect.signature(SEResNet14).parameters.items()
    if not any(name in fixed for fixed in SIZES.values())
]
for _function in (SEResNet14XS, SEResNet14S, SEResNet14M):  # what `help` and completion show
    _function.__signature__ = inspect.Signature(_OPEN)  # type: ignore[attr-defined]
    if _function.__doc__:  # python -OO leaves none
        _function.__doc__ += _COMMON.format(name=_function.__name__)
