"""Pictures of one run: its learning curve, its confusion matrix, its gates."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

#: Told apart by the colour-blind, and by their dashes in print.
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #7F7F7F #000000 #882255".split()


def save(figure, path):
    """Writes a figure as .png and .svg."""
    with matplotlib.rc_context({"svg.hashsalt": "larq_seresnet"}):  # the same logs, the same file
        figure.savefig(f"{path}.png", dpi=150)
        figure.savefig(f"{path}.svg", metadata={"Date": None})


def draw_curves(rows, title, path):
    """Draws train and test top-1 error against the epoch.

    Args:
        rows: What `callbacks.read_log` returns.
        title: Above the picture: what was trained, on what.
        path: Where to; the ending decides the format.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in rows]
    for key, label, style in (
        ("train_error", "training, augmented", "--"),
        ("test_error", "test", "-"),
    ):
        errors = [100 * row[key] for row in rows]
        axes.plot(
            epochs, errors, style, marker="o", markersize=3, label=f"{label}: {errors[-1]:.2f} %"
        )
    axes.set(xlabel="epoch", ylabel="top-1 error, %", ylim=(0, None))
    axes.set_title(title, parse_math=False)  # the names of folders are in it
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(title="after the last epoch")
    figure.savefig(path, dpi=150)


def draw_confusion(matrix, class_names, title, path):
    """Draws a confusion matrix, (true class, predicted class), in counts of images."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    ConfusionMatrixDisplay(matrix, display_labels=class_names).plot(
        ax=axes, cmap="Blues", colorbar=False, xticks_rotation="vertical", text_kw={"fontsize": 7}
    )
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    figure.savefig(path, dpi=130)


def draw_occupancy(found, path):
    """Draws by depth which share of a block's channels is open for all images, some, or none.

    Args:
        found: What `gates.shares` returns.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    below = np.zeros(len(found))
    for key, colour in (("always", COLOURS[0]), ("sometimes", COLOURS[5]), ("never", "#DDDDDD")):
        parts = np.array([each[key] / each["channels"] for each in found.values()])
        axes.bar(list(found), parts, bottom=below, color=colour, label=key)
        below += parts
    axes.plot(
        list(found), [each["open"] for each in found.values()], "k_", ms=24, label="open, mean"
    )
    axes.set(ylabel="share of the channels", ylim=(0, 1))
    axes.tick_params("x", rotation=45, labelsize=7)
    figure.legend(fontsize=8, ncols=4, loc="outside lower center")
    save(figure, path)
