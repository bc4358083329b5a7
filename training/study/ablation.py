"""How recipe `fast` was found: steps from where it began, measured on held-out training images."""

import dataclasses
from typing import Any

from larq_seresnet import files
from larq_seresnet.training import data
from larq_seresnet.training.study import document
from larq_seresnet.training.study.estimates import each_seed
from larq_seresnet.training.study.grid import Grid
from larq_seresnet.training.study.runs import arms_of, budget_arm, budget_run

HELD_OUT = 5000
BUDGETS, SEEDS = (3, 6), (0, 1)
_BEGINNING = {
    "kernel_rate": 0.0,
    "relaxation": 0.0,
    "learning_rate": 0.02,
    "batch_size": 256,
    "crop": 4,
    "shortcut": "conv",
    "head": "bias",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the table: what changes, and where; nothing else differs from `after`'s.

    Attributes:
        name: Of its runs.
        what: What changes, in words.
        after: The step it follows; None for the beginning.
        changes: Arguments of `Config`.
        kept: Whether what follows builds on it.
    """

    name: str
    what: str
    after: str | None
    changes: dict[str, Any]
    kept: bool = True


STEPS = (
    Step("adam", "Adam, rate 0.02, batches of 256, He's network", None, _BEGINNING),
    Step(
        "batch128",
        "batches of 128, half the rate",
        "adam",
        {"batch_size": 128, "learning_rate": 0.01},
    ),
    Step("muon", "Muon for the convolutions' kernels", "batch128", {"kernel_rate": 0.1}),
    Step("pool", "shortcuts without weights", "muon", {"shortcut": "pool"}),
    Step("norm", "BatchNorm of the logits", "pool", {"head": "norm"}),
    Step("crop2", "crops of 2 pixels instead of 4", "norm", {"crop": 2}),
    Step("relaxed", "kernels harden over the first half", "crop2", {"relaxation": 0.5}),
    Step("relaxed80", "over the first four fifths", "relaxed", {"relaxation": 0.8}),
    Step("relaxed100", "to the end", "relaxed80", {"relaxation": 1.0}, kept=False),
    Step("batch64", "batches of 64", "relaxed80", {"batch_size": 64}, kept=False),
    Step("slower", "half the rate of the kernels", "relaxed80", {"kernel_rate": 0.05}, kept=False),
    Step(
        "bare",
        "the paper's SE: bare +-1, no bias",
        "relaxed80",
        {"attention": "se_paper"},
        kept=False,
    ),
    Step("none", "no gradient through FMB", "relaxed80", {"fmb_gradient": "none"}, kept=False),
)


def arguments(step):
    """All arguments of `Config` in which a step differs from the defaults."""
    before = next((each for each in STEPS if each.name == step.after), None)
    return (arguments(before) if before else {}) | step.changes


def runs():
    """The runs of all steps: by seed, then budget, so that every step is seen early."""
    return [
        budget_run(
            step.name,
            arguments(step) | {"held_out": HELD_OUT},
            budget,
            seed,
        )
        for seed in SEEDS
        for budget in BUDGETS
        for step in STEPS
    ]


def write_report(results):
    """Draws the table of the steps, README.md, from the logs in `results`."""
    grid = Grid(results / "logs", arms_of(runs()))
    rows = []
    for step in STEPS:
        errors = [grid.at(budget, budget_arm(step.name, budget))[0] for budget in BUDGETS]
        cells = (f"`{step.name}`", step.what, step.after or "-", *map(each_seed, errors))
        rows.append((*cells, "yes" if step.kept else "no"))
    budgets = (f"{each} epochs" for each in BUDGETS)
    header = ("step", "what changes", "after", *budgets, "in the recipe")
    text = (
        "# How recipe `fast` was found\n\n"
        "`python training/reproduce.py --profile ablation`: error after the last epoch of a "
        "budget, the rate annealed to zero within it; mean and the seeds' values. "
        f"{data.describe(*grid.data())} `w1`, sigmoid + FMB, where nothing else is said. What "
        "else was tried is in [conclusions](conclusions.md).\n\n"
        + files.table(header, rows)
        + "\nWhat is in the recipe was settled by the first trials, before most of this was "
        "measured, and not by these figures alone: batches of 64 take twice the steps, and without "
        "a gradient through FMB the attention never learns.\n\n"
        f"From {grid.provenance()}\n"
    )
    document.write(results / "README.md", text)
