"""What was measured, for people: markdown tables and a picture."""

import collections

from matplotlib import ticker
from matplotlib.figure import Figure

from larq_seresnet import files
from larq_seresnet.training.figures import COLOURS

CAUSES = {
    "tie": "explained by a tie",
    "batch": "by Keras too, in another batch",
    None: "unexplained",
}
MARKERS = {"lce": "o", "litert": "s"}


def agreement(measured):
    """How a file and Keras agree, of `verify.facts`."""
    runtime = {"lce": "LCE's interpreter", "litert": "LiteRT's interpreter"}[measured["runtime"]]
    listed = measured["listed"]
    changed = [each for each in listed if each["keras"] != each["converted"]]
    facts = [
        ("same class", f"{measured['argmax_agreement']:.4%}"),
        ("largest difference of a probability", f"{measured['max_difference']:.2e}"),
        ("mean difference", f"{measured['mean_difference']:.2e}"),
    ]
    if measured["eight_bit_median"] is None:
        causes = collections.Counter(
            each["cause"] for each in listed if each["difference"] > measured["rounding"]
        )
        facts += [
            (f"images beyond {measured['rounding']:.2g}", causes.total()),
            *((f"of them {words}", causes[cause]) for cause, words in CAUSES.items()),
        ]
    else:
        rounded = "difference to Keras with layer inputs rounded to 8 bits"
        facts += [
            (f"median {rounded}", f"{measured['eight_bit_median']:.2e}"),
            (f"99 % of images stay under this {rounded}", f"{measured['eight_bit_most']:.2e}"),
        ]
    facts += [
        ("top-1 error, Keras", f"{measured['keras_error']:.2%}"),
        ("top-1 error, converted", f"{measured['converted_error']:.2%}"),
        ("bytes", f"{measured['bytes']:,}"),
    ]
    return (
        f"{measured['images']:,} test images of {measured['dataset']}, through Keras in float32 "
        f"and through {runtime}.\n\n"
        + files.table(("", ""), facts)
        + "\n## Images that change class\n\n"
        + files.table(
            ("image", "Keras", "converted", "margin in Keras", "first tie in", "its distance"),
            map(_changed, changed),
        )
    )


def _changed(image):
    if image["layer"]:
        tie = (image["layer"], f"{image['distance']:.1e}")
    else:
        tie = ("Keras in another batch" if image["cause"] == "batch" else "-", "-")
    return (image["image"], image["keras"], image["converted"], f"{image['margin']:.1e}", *tie)


def layers(rows, limit):
    """Where a difference arises: from pairs of a layer and its relative difference."""
    first = next((name for name, difference in rows if difference > limit), None)
    return files.table(
        ("layer", "largest relative difference", ""),
        (
            (name, f"{difference:.1e}", "first difference" if name == first else "")
            for name, difference in rows
        ),
    )


def draw_trade_offs(rows, path):
    """Draws accuracy against bytes and against latency.

    Args:
        rows: What `benchmark.measure` returns.
        path: Where to; the ending decides the format.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, key, label in zip(
        panels,
        ("bytes", "p50_1"),
        ("bytes of the file", "median latency, ms, 1 thread"),
        strict=True,
    ):
        for row in rows:
            axes.plot(
                row[key],
                100 * (1 - row["error"]),
                MARKERS[row["runtime"]],
                color=COLOURS[models.index(row["model"]) % len(COLOURS)],
            )
        for row, height in zip(rows, _label_heights(rows, key), strict=True):
            axes.annotate(
                f"{row['runtime']} {row['weights']}",
                (row[key], 100 * (1 - row["error"])),
                xytext=(0, height),
                textcoords="offset points",
                rotation=60,
                fontsize=7,
                ha="left",
                va="bottom" if height > 0 else "top",
            )
        axes.set(xlabel=label, xscale="log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.margins(x=0.12, y=0.45)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on test images, %")
    for index, model in enumerate(models):
        panels[1].plot([], [], "o", color=COLOURS[index % len(COLOURS)], label=model)
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(models))
    figure.savefig(path, dpi=150)


def _label_heights(rows, key):
    """Labels of neighbours stand above and below their points in turn."""
    order = sorted(range(len(rows)), key=lambda index: (rows[index]["model"], rows[index][key]))
    heights = [0] * len(rows)
    for place, index in enumerate(order):
        heights[index] = 5 if place % 2 else -5
    return heights
