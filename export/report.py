"""What was measured, for people: markdown tables and a picture."""

import collections

from matplotlib import ticker
from matplotlib.figure import Figure

from larq_seresnet import files
from larq_seresnet.export import runtimes
from larq_seresnet.training.pictures import COLOURS

CAUSES = {
    "tie": "explained by a tie",
    "batch": "by Keras too, in another batch",
    None: "unexplained",
}
_WITHOUT_A_TIE = {"batch": "Keras in another batch", "output": "the output, rounded"}
MARKERS = {"lce": "o", "litert": "s", "tflm": "^"}


def agreement(measured):
    """How a file and Keras agree, of `verify.facts`."""
    changed = [each for each in measured["listed"] if each["keras"] != each["converted"]]
    facts = [
        ("same class", f"{measured['argmax_agreement']:.4%}"),
        ("largest difference of a probability", f"{measured['max_difference']:.2e}"),
        ("mean difference", f"{measured['mean_difference']:.2e}"),
        *_by_kind(measured),
        *_errors(measured),
        ("bytes", f"{measured['bytes']:,}"),
        ("bytes of memory, activations and unpacked filters", f"{measured['memory']:,}"),
    ]
    if "arena" in measured:
        facts.append(("bytes of TFLM's arena on this machine", f"{measured['arena']:,}"))
    return (
        f"{measured['images']:,} test images of {measured['dataset']}, through Keras in float32 "
        f"and through {runtimes.RUNTIMES[measured['runtime']]}'s interpreter.\n\n"
        + files.table(("", ""), facts)
        + "\n## Images that change class\n\n"
        + files.table(
            ("image", "Keras", "converted", "margin in Keras", "first tipped in", "its distance"),
            map(_changed, changed),
        )
    )


def _by_kind(measured):
    """Rows of what is compared in files of a kind: of TFLM, of rounded inputs, of all others."""
    if "unpacked_same" in measured:
        same = f"{measured['unpacked_same']:,} of {measured['images']:,}"
        return [("images with the outputs of the same file, filters unpacked", same)]
    if "eight_bit_median" in measured:
        most = "99 % of images" if measured["images"] >= 100 else "all images but one"
        rounded = "difference to Keras with layer inputs rounded to 8 bits"
        return [
            (f"median {rounded}", f"{measured['eight_bit_median']:.2e}"),
            (f"{most} stay under this {rounded}", f"{measured['eight_bit_most']:.2e}"),
        ]
    causes = collections.Counter(
        each["cause"] for each in measured["listed"] if each["difference"] > measured["rounding"]
    )
    return [
        (f"images beyond {measured['rounding']:.2g}", causes.total()),
        *((f"of them {words}", causes[cause]) for cause, words in CAUSES.items()),
    ]


def _errors(measured):
    """Rows of what is known: of labels that are not the model's no error, of few files the last."""
    rows = [
        ("top-1 error, Keras", measured["keras_error"], ".2%"),
        ("top-1 error, converted", measured["converted_error"], ".2%"),
        ("same class as Keras, scales not rounded", measured["half_agreement"], ".4%"),
        ("top-1 error, Keras, scales not rounded", measured["half_error"], ".2%"),
    ]
    return [(what, format(value, form)) for what, value, form in rows if value is not None]


def _changed(image):
    if image["layer"]:
        tie = (image["layer"], f"{image['distance']:.1e}")
    else:
        tie = (_WITHOUT_A_TIE.get(image["cause"], "-"), "-")
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
    """Draws bytes, latency and error side by side, a line for each way to store a model.

    Args:
        rows: What `benchmark.measure` returns.
        path: Where to; the ending decides the format.
    """
    figure = Figure(figsize=(11, 1.2 + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, key, label, scale, form in zip(
        panels,
        ("bytes", "p50_1", "error"),
        ("bytes of the file", "median latency, ms, 1 thread", "error on test images"),
        ("log", "log", "linear"),
        ("{:,}", "{:.2f}", "{:.2%}"),
        strict=True,
    ):
        for line, row in enumerate(rows):
            colour = COLOURS[models.index(row["model"]) % len(COLOURS)]
            axes.plot(row[key], line, MARKERS[row["runtime"]], color=colour)
            axes.annotate(
                form.format(row[key]),
                (row[key], line),
                xytext=(7, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
            )
        axes.set(xlabel=label, xscale=scale)
        axes.margins(x=0.45, y=0.5 / len(rows))  # for the figures on the right
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [f"{row['runtime']} {row['weights']}" for row in rows])
    panels[0].invert_yaxis()
    panels[2].xaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    for index, model in enumerate(models):
        panels[1].plot([], [], "o", color=COLOURS[index % len(COLOURS)], label=model)
    figure.legend(fontsize=8, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=150)


def draw_error_by_bytes(rows, path):
    """Draws error against bytes, a curve through the files of each model; arguments as above."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    models = list(dict.fromkeys(row["model"] for row in rows))
    for index, model in enumerate(models):
        files_of_it = sorted(
            (row["bytes"], 100 * row["error"]) for row in rows if row["model"] == model
        )
        sizes, errors = zip(*files_of_it, strict=True)
        colour = COLOURS[index % len(COLOURS)]
        one = len(sizes) == 1  # named above its point, a curve at its left end
        axes.plot(sizes, errors, "D" if one else "o-", color=colour, ms=5, lw=0.8, label=model)
        axes.annotate(
            f"{errors[0]:.1f} %, {sizes[0]:,} bytes",
            (sizes[0], errors[0]),
            xytext=(0, 7) if one else (-6, -3),
            ha="left" if one else "right",
            textcoords="offset points",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
    axes.set(
        xlabel="bytes of the file", ylabel="error on test images, %", xscale="log", ylim=(0, None)
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: f"{size:,.0f}"))
    sizes = [row["bytes"] for row in rows]
    axes.set_xlim(min(sizes) / 5, max(sizes) * 1.5)  # room for names at the left
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=150)
