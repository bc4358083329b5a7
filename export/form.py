"""The form of a file: for which runtime, how its filters are stored, what it takes and gives."""

import dataclasses

from larq_seresnet.arguments import check_choice
from larq_seresnet.export import interface, pack, pack_litert, pack_tflm, tflm

#: By runtime, how filters can be stored; the last takes filters of any values.
WEIGHTS = {
    "lce": (pack_litert.HALF, "1bit", "float32"),
    "litert": pack_litert.WEIGHTS,
    "tflm": pack_tflm.WEIGHTS,
}
ALL_WEIGHTS = tuple(dict.fromkeys(way for ways in WEIGHTS.values() for way in ways))


@dataclasses.dataclass(frozen=True)
class Form:
    """What `convert.py`'s flags of the same names say of a file.

    Attributes:
        runtime: "lce", "litert" or "tflm".
        weights: How filters of two values are stored, one of the runtime's `WEIGHTS`; see
            `pack_litert` and `pack_tflm`.
        memory: "least" or "fewest-bytes", see `pack.pack` and `pack_litert.store`, for "lce" and
            "litert" with filters in bits; None for the first where it means anything.
        input_type, output_type: See `interface.with_types`; None for float32, or int8 for "tflm",
            which has no other.
        strip: Whether names and signatures are dropped.

    Raises:
        ValueError: If an argument has another value, the runtime does not compute filters stored
            so, or is not installed.
    """

    runtime: str = "lce"
    weights: str = "1bit"
    memory: str | None = None
    input_type: str | None = None
    output_type: str | None = None
    strip: bool = False

    def __post_init__(self):
        check_choice("runtime", self.runtime, WEIGHTS)
        check_choice("weights", self.weights, ALL_WEIGHTS)
        check_choice("memory", self.memory, (None, *pack.MEMORY))
        if self.weights not in WEIGHTS[self.runtime]:
            raise ValueError(
                f"--weights {self.weights} is not for --runtime {self.runtime}: it must be one of "
                f"{', '.join(WEIGHTS[self.runtime])}."
            )
        if self.runtime == "tflm":
            tflm.check_installed()
        if self.memory and not self.is_in_bits:
            raise ValueError(
                f"--memory {self.memory} is for --runtime lce or litert with filters in bits, "
                f"received {self.runtime} and {self.weights}."
            )
        interface.check_types(self.runtime, self.input_type, self.output_type)

    @property
    def is_in_bits(self):
        """Whether filters are stored in bits that are unpacked into memory."""
        return self.runtime != "tflm" and self.weights in pack_litert.IN_BITS

    @property
    def any_values(self):
        """Of the runtime's ways to store filters, the one that takes filters of any values."""
        return WEIGHTS[self.runtime][-1]

    @property
    def stem(self):
        """The name of a file of this form, without its ending."""
        parts = [self.runtime, self.weights]
        if self.memory == "fewest-bytes":
            parts.append("fewest_bytes")
        if self.input_type == "uint8":
            parts.append("uint8_in")
        if self.output_type == "int8" and self.runtime != "tflm":
            parts.append("int8_out")
        return "_".join(parts)


def forms(runtime, **options):
    """Every way to store filters in a file for a runtime: `Form`s, with these other attributes."""
    for weights in WEIGHTS[runtime]:
        one = Form(runtime, weights, **options)
        for memory in pack.MEMORY if one.is_in_bits else (None,):
            yield dataclasses.replace(one, memory=memory)
