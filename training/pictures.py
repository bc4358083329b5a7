"""Pictures of one run: its learning curve, its confusion matrix."""

from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay


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
    axes.set(title=title, xlabel="epoch", ylabel="top-1 error, %", ylim=(0, None))
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
    axes.set(title=title, xlabel="predicted", ylabel="true")
    figure.savefig(path, dpi=130)
