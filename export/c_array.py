"""A file for TFLM as a C++ header: what firmware is compiled with."""

import numpy as np

from larq_seresnet.export import anatomy, flatbuffer, tflm
from larq_seresnet.preprocessing import preprocess_input

#: By operator of a file, the method of TFLM's resolver that adds it.
METHODS = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "GATHER": "AddGather",
    "LOGISTIC": "AddLogistic",
    "MAXIMUM": "AddMaximum",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MINIMUM": "AddMinimum",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "REDUCE_MAX": "AddReduceMax",
    "RELU": "AddRelu",
    "RESHAPE": "AddReshape",
    "SOFTMAX": "AddSoftmax",
    "STRIDED_SLICE": "AddStridedSlice",
    "TANH": "AddTanh",
    tflm.DECODE: "AddDecode",
}
LINE = 20
TEMPLATE = """\
// {name}: a network for TensorFlow Lite for Microcontrollers, written by convert.py.
// To be included once: it holds the file itself.

#pragma once

#include <cstdint>

namespace model {{

constexpr int kHeight = {height}, kWidth = {width}, kChannels = {channels}, kClasses = {classes};

// What the interpreter needs in all with TFLM's reference kernels, as measured with pointers of 8
// bytes. With 4 it is less; kernels that take memory of their own, such as CMSIS-NN's, need more.
constexpr int kArenaBytes = {arena};

// Probabilities are output - kZeroPoint, in units of 1 / kOne.
constexpr int kZeroPoint = {zero_point}, kOne = {one};

// What the network takes for each byte of each channel: normalised, and rounded to int8.
constexpr int8_t kPixel[kChannels][256] = {{
{pixels}
}};

constexpr const char* kLabels[kClasses] = {{
{labels}
}};

constexpr int kOperators = {operators};

// Adds exactly the operators that the file has.
template <typename Resolver>
bool AddOperators(Resolver& resolver) {{
  return {added};
}}

alignas(16) constexpr unsigned char kFile[{bytes}] = {{
{file}
}};

}}  // namespace model
"""


def header(tflite, name, class_names, arena, normalised=None):
    """The text of a header.

    Args:
        tflite: Bytes of a file for TFLM.
        name: What to call the model.
        class_names: Of its classes; empty where nobody knows them, then they are numbers.
        arena: Bytes of memory that the interpreter needs, see `tflm.arena`.
        normalised: What the network takes for each byte of each channel, (256, C), such as of grey
            images; None for what `preprocess_input` makes of RGB.

    Returns:
        C++17, which defines the namespace `model`.

    Raises:
        ValueError: If it has an operator that is not in `METHODS`.
    """
    content = flatbuffer.read(tflite)
    input_facts, output_facts = anatomy.interface(content)
    _, height, width, channels = input_facts.shape
    if normalised is None:
        levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1)
        normalised = preprocess_input(np.tile(levels, channels))[:, 0]
    tables = input_facts.stored(normalised).T
    labels = class_names or [str(number) for number in range(output_facts.shape[-1])]
    operators = sorted(anatomy.count_operators(content))
    unknown = [each for each in operators if each not in METHODS]
    if unknown:
        raise ValueError(
            f"a header must be of a network whose operators are among {', '.join(METHODS)}, "
            f"received {', '.join(unknown)}."
        )
    calls = [f"resolver.{METHODS[each]}() == 0" for each in operators]
    return TEMPLATE.format(
        name=name,
        height=height,
        width=width,
        channels=channels,
        classes=output_facts.shape[-1],
        arena=arena,
        zero_point=output_facts.zero_point,
        one=round(1 / output_facts.scale),
        pixels=",\n".join(f"    {{\n{_rows(each, 8)}\n    }}" for each in tables),
        labels=",\n".join(f"    {_quoted(label)}" for label in labels),
        operators=len(operators),
        added=" &&\n         ".join(calls),
        bytes=len(tflite),
        file=_rows(np.frombuffer(tflite, np.uint8), 4),
    )


def _rows(numbers, indent):
    rows = [numbers[start : start + LINE] for start in range(0, len(numbers), LINE)]
    return ",\n".join(" " * indent + ", ".join(map(str, row)) for row in rows)


def _quoted(label):
    """A C++ string of UTF-8 bytes; what is not plain ASCII in octal."""
    plain = [
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in label.encode()
    ]
    return f'"{"".join(plain)}"'
