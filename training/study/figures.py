"""Pictures of a study, drawn from its logs."""

from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from larq_seresnet.training.pictures import COLOURS, save
from larq_seresnet.training.study.estimates import FEWEST_SEEDS, student

STYLES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (6, 2)),
    (0, (3, 1)),
)
MARKERS = "os^vDPX*<>hp"
#: Ticks of errors in percent on a logarithmic scale.
_ERRORS = (8, 10, 12, 15, 20, 30, 40, 60, 80)
#: By how much of its budget an arm is drawn beside the next one.
_ASIDE = 1.07


def looks(things, styles=STYLES):
    """Some things, each with a colour and a style: nine colours and eight styles are 72 looks."""
    return zip(things, cycle(COLOURS), cycle(styles), strict=False)


def draw_errors(grid, labels, path, epochs, stated, threshold=None, scale="linear"):
    """Draws test error against the epoch: a thin line a seed, their mean and its 95 % band.

    Where some seeds end earlier, those that go on do so in lines less thin.

    Args:
        grid: A `grid.Grid`.
        labels: By arm, in order; arms without logs are left out.
        path: Where to, without ending: written as .png and .svg.
        epochs: Up to which.
        stated: By arm and epoch, errors that the paper states: crosses.
        threshold: An error to draw a line at.
        scale: Of the error: "log" spreads where curves end.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    crosses: dict[tuple[int, float], list[str]] = {}
    for (arm, label), colour, style in looks(labels.items()):
        runs = [100 * errors[:epochs] for errors in grid.errors[arm].values()]
        if not runs:
            continue
        shared = np.array([errors[: min(map(len, runs))] for errors in runs])
        axis = np.arange(1, shared.shape[1] + 1)
        for errors in runs:
            axes.plot(axis, errors[: len(axis)], ls=style, color=colour, lw=0.6, alpha=0.5)
            rest = range(len(axis), len(errors) + 1)
            axes.plot(rest, errors[len(axis) - 1 :], ls=style, color=colour, lw=1.1)
        alone = sum(len(errors) > len(axis) for errors in runs)
        label = f"{label} (n = {len(runs)}{f', then {alone}' * bool(alone)})"
        axes.plot(axis, shared.mean(0), ls=style, color=colour, lw=1.8, label=label)
        if len(runs) >= FEWEST_SEEDS:
            axes.fill_between(axis, *student(shared), color=colour, alpha=0.12, lw=0)
        for epoch, error in stated.get(arm, {}).items():
            if epoch <= epochs:
                crosses.setdefault((epoch, 100 * error), []).append(colour)
    for place, colours in crosses.items():  # black where several arms share one
        colour = colours[0] if len(colours) == 1 else "black"
        axes.plot(*place, "x", color=colour, ms=7, mew=2)
    if crosses:
        axes.plot([], [], "x", color="black", ms=7, mew=2, label="as the paper states")
    if threshold is not None:
        axes.axhline(100 * threshold, color="black", lw=0.8)
    axes.set(xlabel="epoch", ylabel="test error, %", yscale=scale)
    if scale == "log":
        axes.set_yticks(_ERRORS, map(str, _ERRORS))
        axes.minorticks_off()
    else:
        axes.set_ylim(0, min(100, axes.get_ylim()[1]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)


def draw_budgets(points, paper, path):
    """Draws error against the number of epochs a training was given.

    Args:
        points: By label, by budget in epochs: the errors of the seeds.
        paper: Errors by epoch that the paper states.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    shown = {label: budgets for label, budgets in points.items() if budgets}
    for at, ((label, budgets), colour, marker) in enumerate(looks(shown.items(), MARKERS)):
        beside = _ASIDE ** (at - (len(shown) - 1) / 2)  # so that arms do not hide each other
        for budget, errors in budgets.items():
            places = [beside * budget] * len(errors)
            axes.plot(places, 100 * errors, ".", color=colour, ms=4, alpha=0.5)
        means = [100 * errors.mean() for errors in budgets.values()]
        places = [beside * budget for budget in budgets]
        axes.plot(places, means, color=colour, marker=marker, ms=5, lw=0.8, label=label)
    errors = [100 * error for error in paper.values()]
    axes.plot(paper.keys(), errors, "x", color="grey", zorder=0, label="paper, SE + FMB")
    ticks = sorted({budget for budgets in points.values() for budget in budgets})
    axes.set(xlabel="budget, epochs", ylabel="test error, %", xscale="log", yscale="log")
    axes.set_xticks(ticks, map(str, ticks))
    shown_errors = axes.get_ylim()
    axes.set_yticks(_ERRORS, map(str, _ERRORS))
    axes.set_ylim(shown_errors)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save(figure, path)


def draw_frontier(points, path):
    """Draws error against the bytes of a file: a larger dot computes more, a darker one needs more.

    Args:
        points: By name, the `frontier.Cost` of a network and the errors of its seeds.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    costs = [cost for cost, _ in points.values()]
    errors = [100 * each.mean() for _, each in points.values()]
    dots = axes.scatter(
        [cost.file / 1000 for cost in costs],
        errors,
        s=[cost.macs / 400_000 for cost in costs],
        c=[cost.memory / 1000 for cost in costs],
        cmap="viridis_r",
        alpha=0.8,
        lw=0,
    )
    for at, (name, error, cost) in enumerate(zip(points, errors, costs, strict=True)):
        place, above = (cost.file / 1000, error), 6 if at % 2 else -10
        axes.annotate(name, place, xytext=(4, above), textcoords="offset points", fontsize=6)
    axes.margins(x=0.15)
    axes.set(xlabel="bytes of the file, kB", ylabel="error, %")
    axes.grid(alpha=0.3)
    figure.colorbar(dots, label="activations in LiteRT, kB")
    handles, labels = dots.legend_elements("sizes", num=3, func=lambda size: size * 0.4)
    axes.legend(
        handles, labels, title="million\nmultiply-accumulates", fontsize=7, title_fontsize=7
    )
    save(figure, path)


#: Ticks of a file's size.
_KILOBYTES = (10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 400, 1000)


def draw_bytes(points, path):
    """Draws error against the bytes of a file.

    Args:
        points: By label, bytes and the errors of the seeds.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(6.4, 3.8 + 0.19 * len(points)), layout="constrained")
    axes = figure.add_subplot()
    sizes = [size for size, _ in points.values()] or [1000]
    for (label, (size, errors)), colour, marker in looks(points.items(), MARKERS):
        axes.plot([size / 1000] * len(errors), 100 * errors, ".", color=colour, ms=4, alpha=0.5)
        axes.plot(size / 1000, 100 * errors.mean(), marker, color=colour, ms=7, label=label)
    axes.set(xlabel="size of the file, kB", ylabel="test error, %", xscale="log")
    low, high = (each / 1000 for each in (min(sizes), max(sizes)))
    ticks = [tick for tick in _KILOBYTES if low / 1.3 <= tick <= high * 1.3]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    save(figure, path)


def draw_gate_values(values, gates, title, path):
    """Draws the attention values of each channel of a module, and their gates, for many images.

    Args:
        values, gates: M_c and M'_c, (images, C).
        title: Above the picture.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    channels = np.arange(1, values.shape[1] + 1)
    for image in values.astype(float):
        axes.plot(channels, image, ".", color=COLOURS[0], markersize=3, alpha=0.15, rasterized=True)
    axes.plot(
        channels,
        values.mean(0, dtype=float),
        "_",
        color="black",
        markersize=14,
        label="mean of M_c",
    )
    axes.plot(
        channels, gates.mean(0, dtype=float), "x", color=COLOURS[1], label="mean of the gates, FMB"
    )
    axes.plot([], [], ".", color=COLOURS[0], label="M_c of one image")
    axes.set(title=title, xlabel="channel", ylabel="attention, M_c", xticks=channels)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    save(figure, path)


def draw_gate_histogram(values, gates, title, path):
    """Draws how often each attention value occurs before and after FMB; see `draw_gate_values`."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    low = min(float(gates.min()), float(values.min()), 0.0)
    bins = np.linspace(low, 1.0, 41)
    for data, label, colour in (
        (values, "before FMB", COLOURS[0]),
        (gates, "after FMB", COLOURS[1]),
    ):
        axes.hist(
            data.astype(float).ravel(), bins, label=label, color=colour, histtype="step", lw=1.8
        )
    shape = " x ".join(map(str, values.shape))
    axes.set(title=title, xlabel="attention, M_c", ylabel=f"how many of {shape} (images, channels)")
    axes.legend(fontsize=8)
    save(figure, path)


def draw_depth(panels, modules, path):
    """Draws figures of the attention module by module, from the first block to the last.

    Args:
        panels: By title, and by arm, one value a module: a share, or what grows by powers of ten
            where the title says "gradient". The same arms in each.
        modules: Names of the modules.
        path: Where to, without ending: written as .png and .svg.
    """
    figure = Figure(figsize=(3.6 * len(panels), 3.8), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    gradients = [axes for axes, title in zip(all_axes, panels, strict=True) if "gradient" in title]
    for axes, (title, arms) in zip(all_axes, panels.items(), strict=True):
        for (arm, values), colour, style in looks(arms.items()):
            axes.plot(
                range(len(modules)), values, ls=style, color=colour, marker="o", ms=3, label=arm
            )
        axes.set_title(title, fontsize=9)
        names = [name.replace("_", "\n") for name in modules]
        axes.set_xticks(range(len(modules)), names, fontsize=7)
        axes.grid(alpha=0.3)
        if axes in gradients:
            axes.sharey(gradients[0])
            axes.set_yscale("symlog", linthresh=1e-2)
            axes.set_ylabel("times that of the convolutions", fontsize=8)
        else:
            axes.set_ylabel("share", fontsize=8)
            axes.set_ylim(-0.02, 1.02)
    for axes in gradients[:1]:
        axes.set_ylim(bottom=0)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=6, loc="outside lower center")
    save(figure, path)


def draw_positions(images, blocks, shares, path):
    """Draws images, and beside each which of its positions are open, block by block.

    Args:
        images: uint8, (N, H, W, 3).
        blocks: By block, bool, (N, h, w).
        shares: By block, (h, w): for which share of many images a position is open; the last row.
        path: Where to, without ending: written as .png and .svg.
    """
    columns = {"": [*images, np.full_like(images[0], 255)]} | {
        name.replace("_", "\n"): [*each, shares[name]] for name, each in blocks.items()
    }
    rows = len(images) + 1
    figure = Figure(figsize=(1.1 * len(columns), 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes = grid[row, column]
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=title if row == 0 else "")
            axes.title.set_fontsize(8)
    grid[-1, 0].axis("off")
    grid[-1, 0].text(
        0.5,
        0.5,
        "all images,\nmean",
        fontsize=8,
        ha="center",
        va="center",
        transform=grid[-1, 0].transAxes,
    )
    save(figure, path)
