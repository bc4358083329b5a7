"""Three sizes of SEResNet14, their widths and ends chosen for accuracy per byte."""

from larq_seresnet.arguments import SIZES
from larq_seresnet.seresnet import SEResNet14


def SEResNet14XS(**arguments):
    """SEResNet14 with filters (16, 32, 32), for a file of 20 kB.

    Stem and classifier have 8-bit weights (`ends`), the attention a `reduction_ratio` of 4, and
    "w1a1" a trained `shift`.

    Args:
        **arguments: Those of `SEResNet14` but these, with the same defaults. What ships for
            `weights="cifar10"`: larq_seresnet/weights/README.md.

    Returns:
        What `SEResNet14` returns.

    Raises:
        TypeError: If an argument is one that the size fixes, or unknown.
        ValueError: As `SEResNet14` does.
    """
    return SEResNet14(**SIZES["SEResNet14XS"], **arguments)


def SEResNet14S(**arguments):
    """SEResNet14 with filters (32, 48, 48), for a file of 40 kB; else as `SEResNet14XS`."""
    return SEResNet14(**SIZES["SEResNet14S"], **arguments)


def SEResNet14M(**arguments):
    """SEResNet14 with filters (32, 64, 80), for a file of 70 kB; else as `SEResNet14XS`."""
    return SEResNet14(**SIZES["SEResNet14M"], **arguments)
