"""What the SE modules of the paper's arms do: a table of all, and by depth what a figure shows."""

import re

import numpy as np

from larq_seresnet import files
from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study.claims import GATES_EPOCH, named
from larq_seresnet.training.study.grid import mean_share

#: Whose gates are drawn by depth: the paper's, with FMB, that learn, and ours.
ARMS = ("sigmoid", "sigmoid_fmb", "sigmoid_fmb_through", "scaled_fmb_through")
FIGURE = "depth"


def table(grid, blocks):
    """What the modules of all arms do after `GATES_EPOCH`, as a section of the report.

    Args:
        grid: A `Grid`.
        blocks: Arms by block, in order.
    """
    header = (
        "arm",
        "n",
        "saturated",
        "open",
        "never open",
        "always open",
        "gradient at first",
        "at last",
    )
    arms = [arm for block in blocks.values() for arm in block if grid.modules(arm, GATES_EPOCH)]
    if not arms:
        return "No run has recorded its gates yet.\n"
    modules = grid.modules(arms[0], GATES_EPOCH)[0].values()
    return (
        f"After epoch {GATES_EPOCH}, means over n seeds, for {GATE_IMAGES} test images. Saturated: "
        "the share of attention values M_c within 1 % of an end of their range. Open: the share at "
        "or above FMB's threshold (for tanh + FMB the others are -1 and invert their channels). "
        "Never and always open: how many channels are so for all images, of "
        f"{sum(module['channels'] for module in modules)} in {len(modules)} modules. Gradient: "
        "root mean square in W0 and W1, divided by the median of the residual convolutions', "
        "before the first epoch and after the run's last one.\n\n"
        + files.table(header, [_module_row(grid, arm) for arm in arms])
        + (_DEPTH if by_depth(grid)[1] else "")
    )


_DEPTH = f"""
![Gates by depth]({FIGURE}.png)

The same for each module. Left: the share of the attention values' variance that is between images;
the rest is between channels, and without the former a gate is a constant. Second: the share of
gates, over all images, in the same state as after the first epoch. Right: the gradient, as above.
"""


def by_depth(grid):
    """What `FIGURE` draws: by title and by arm one value a module, and the modules' names.

    Both empty where no run tells it.
    """
    modules = {
        arm: told
        for arm in ARMS
        if (told := [each for each in grid.modules(arm, GATES_EPOCH) if _tells_depth(each)])
    }
    if not modules:
        return {}, []
    names = list(next(iter(modules.values()))[0])
    found = {
        f"{what}, epoch {GATES_EPOCH}": {
            named(arm): [np.mean([each[name][key] for each in told]) for name in names]
            for arm, told in modules.items()
        }
        for what, key in (
            ("variance of M_c that is of images", "by_image"),
            ("gates open or closed as after epoch 1", "as_at_first"),
        )
    }
    for when, title in (("initial", "before the first epoch"), ("final", "after the last")):
        found[f"gradient in W0 and W1, {title}"] = {
            named(arm): [_relative_gradient(grid, arm, when, f"{name}/") for name in names]
            for arm in modules
        }
    return found, [name.removesuffix("_se") for name in names]


def _tells_depth(modules):
    return all("by_image" in module for module in modules.values())


def _module_row(grid, arm):
    modules = grid.modules(arm, GATES_EPOCH)

    def share(key):
        return f"{np.mean([mean_share(each, key) for each in modules]):.1%}"

    def count(key):
        of_each = [sum(module[key] for module in each.values()) for each in modules]
        return f"{np.mean(of_each):.0f}"

    return (
        named(arm),
        len(modules),
        share("saturated"),
        share("open"),
        count("never_open"),
        count("always_open"),
        *(f"{_relative_gradient(grid, arm, when):.2g}" for when in ("initial", "final")),
    )


def _relative_gradient(grid, arm, when, module="_se/"):
    ratios = []
    for measured in grid.measures[arm].values():
        found = measured["gradients"][when]
        attention = [value for name, value in found.items() if module in name]
        others = [value for name, value in found.items() if re.search(r"_[12]_conv", name)]
        ratios.append(np.mean(attention) / np.median(others))
    return np.mean(ratios)
