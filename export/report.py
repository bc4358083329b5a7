"""What was measured, for people: markdown tables."""


def table(header, rows):
    """A markdown table, or "None." without rows."""
    rows = list(rows)
    if not rows:
        return "None.\n"
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def agreement(measured, unexplained, dataset, converted):
    """How a file and Keras agree.

    Args:
        measured: A `verify.Agreement` as a dict.
        unexplained: How many images differ for no known reason.
        dataset: Name of the data set.
        converted: A `runtimes.Converted`.
    """
    runtime = {"lce": "LCE's interpreter", "litert": "LiteRT's interpreter"}[converted.runtime]
    listed = measured["listed"]
    changed = [each for each in listed if each["keras"] != each["converted"]]
    facts = [
        ("same class", f"{measured['argmax_agreement']:.4%}"),
        ("largest difference of a probability", f"{measured['max_difference']:.2e}"),
        ("mean difference", f"{measured['mean_difference']:.2e}"),
    ]
    if measured["eight_bit_median"] is None:
        beyond = [each for each in listed if each["difference"] > measured["rounding"]]
        facts += [
            (f"images beyond {measured['rounding']:.2g}", len(beyond)),
            ("of them explained by a tie", len(beyond) - unexplained),
        ]
    else:
        facts.append(
            (
                "median difference to Keras with layer inputs rounded to 8 bits",
                f"{measured['eight_bit_median']:.2e}",
            )
        )
    facts += [
        ("top-1 error, Keras", f"{measured['keras_error']:.2%}"),
        ("top-1 error, converted", f"{measured['converted_error']:.2%}"),
        ("bytes", f"{len(converted.tflite):,}"),
    ]
    return (
        f"{measured['images']:,} test images of {dataset}, through Keras in float32 and through "
        f"{runtime}.\n\n"
        + table(("", ""), facts)
        + "\n## Images that change class\n\n"
        + table(
            ("image", "Keras", "converted", "margin in Keras", "first tie in", "its distance"),
            map(_changed, changed),
        )
    )


def _changed(image):
    tie = (image["layer"], f"{image['distance']:.1e}") if image["layer"] else ("-", "-")
    return (image["image"], image["keras"], image["converted"], f"{image['margin']:.1e}", *tie)


def layers(rows, limit):
    """Where a difference arises: from pairs of a layer and its relative difference."""
    first = next((name for name, difference in rows if difference > limit), None)
    return table(
        ("layer", "largest relative difference", ""),
        (
            (name, f"{difference:.1e}", "first difference" if name == first else "")
            for name, difference in rows
        ),
    )
