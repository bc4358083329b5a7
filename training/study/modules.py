"""What the SE modules of the paper's arms do: a table of all, and by depth what a figure shows."""

import re

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import pictures
from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study.claims import GATES_EPOCH, named
from larq_seresnet.training.study.measures import mean_count, mean_share

#: Whose gates are drawn by depth: the paper's, with FMB, that learn, and ours.
ARMS = (
    "sigmoid",
    "sigmoid_fmb",
    "tanh",
    "tanh_fmb",
    "sigmoid_fmb_through",
    "scaled_fmb_through",
)
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
        "last epoch",
        "never open at last",
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
        "before the first epoch and after each run's last one. Never open at last: channels that "
        "are open for none of all training images after that epoch.\n\n"
        + files.table(header, [_module_row(grid, arm) for arm in arms])
        + _depth(grid)
    )


def _depth(grid):
    """What the figure shows, and what follows from it."""
    panels, names = by_depth(grid)
    if not names:
        return ""
    of_images, unchanged, *_ = (
        {arm: np.mean(values) for arm, values in panel.items()} for panel in panels.values()
    )
    depends = ", ".join(f"{arm} {share:.0%}" for arm, share in of_images.items())
    stays = ", ".join(f"{arm} {share:.0%}" for arm, share in unchanged.items())
    return (
        f"\n![Gates by depth]({FIGURE}.png)\n\n"
        "Module by module, from the first block to the last. "
        f"First panel: how much of the attention's variance is between images ({depends}, means "
        "over modules). The rest is between channels: where this share is 0, the gate of a channel "
        "is a constant, and SE no more than a scale. "
        f"Second: the share of gates that are after epoch {GATES_EPOCH} as they were after the "
        f"first ({stays}). Gates drawn anew, half of them open, would give 50 %. "
        "Third and fourth: the gradient that reaches W0 and W1, on one scale. None passes through "
        "FMB as the paper has it: W0 and W1 stay as they were drawn, and a gate changes because "
        "what it sees changes.\n"
    )


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
            ("share of variance between images", "by_image"),
            ("gates unchanged since epoch 1", "as_at_first"),
        )
    }
    for when, title in (("initial", "before epoch 1"), ("final", "after the last epoch")):
        found[f"gradient, {title}"] = {
            named(arm): [_relative_gradient(grid, arm, when, f"{name}/") for name in names]
            for arm in modules
        }
    return found, [name.removesuffix("_se") for name in names]


def _tells_depth(modules):
    return all("by_image" in module for module in modules.values())


def occupancy(grid, arm, results):
    """Draws which channels open for all training images at the end, of an arm's first seed.

    Returns:
        The picture and its caption, in Markdown; "" where no run has measured it.
    """
    for seed, measured in grid.measures.get(arm, {}).items():
        found = measured.get("occupancy")
        if found:
            pictures.draw_occupancy(found, results / "occupancy")
            never, count = (
                sum(block[key] for block in found.values()) for key in ("never", "channels")
            )
            return (
                "![which channels open](occupancy.png)\n\nChannels that are open for all, some or "
                f"none of the training images after epoch {len(grid.errors[arm][seed])} of seed "
                f"{seed}: {never} of {count} for none."
            )
    return ""


def _module_row(grid, arm):
    modules = grid.modules(arm, GATES_EPOCH)

    def share(key):
        return f"{np.mean([mean_share(each, key) for each in modules]):.1%}"

    def count(key):
        return f"{mean_count(modules, key):.0f}"

    return (
        named(arm),
        len(modules),
        share("saturated"),
        share("open"),
        count("never_open"),
        count("always_open"),
        *(f"{_relative_gradient(grid, arm, when):.2g}" for when in ("initial", "final")),
        ", ".join(map(str, sorted({len(errors) for errors in grid.errors[arm].values()}))),
        _never_at_last(grid, arm),
    )


def _never_at_last(grid, arm):
    found = [each["occupancy"] for each in grid.measures[arm].values() if each.get("occupancy")]
    if not found:
        return "-"
    return f"{mean_count(found, 'never'):.0f}"


def _relative_gradient(grid, arm, when, module="_se/"):
    ratios = []
    for measured in grid.measures[arm].values():
        found = measured["gradients"][when]
        attention = [value for name, value in found.items() if module in name]
        others = [value for name, value in found.items() if re.search(r"_[12]_conv", name)]
        ratios.append(np.mean(attention) / np.median(others))
    return np.mean(ratios)
