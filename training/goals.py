"""What recipe `fast` reaches: errors at budgets, and what SE and FMB are worth in them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import figures
from larq_seresnet.training.grid import Estimate, Grid, difference, mean_error
from larq_seresnet.training.runs import budget_run

#: By name, the arguments in which an arm differs from the defaults: `w1`, sigmoid + FMB.
ARMS: dict[str, dict[str, Any]] = {
    "fmb": {},
    "soft": {"fmb": False},
    "no_se": {"attention": None},
    "w1a1": {"precision": "w1a1"},
}
LABELS = {
    "fmb": "w1, SE + FMB",
    "soft": "w1, SE without FMB",
    "no_se": "w1, no SE",
    "w1a1": "w1a1, SE + FMB",
}
#: Arms, their budget in epochs, and how many seeds.
PLAN = (
    (("fmb",), 1, 5),
    (("fmb",), 2, 5),
    (("fmb", "soft", "no_se"), 6, 5),
    (("w1a1",), 6, 3),
    (("fmb", "soft", "no_se"), 25, 3),
    (("fmb", "w1a1"), 100, 1),
)
#: The paper's curve of 1-bit sigmoid + FMB: error at epoch 6, 9 and 100.
PAPER = {6: 0.3627, 9: 0.30, 100: 0.12}


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure to be reached: `found` of the logs, at most `goal`, better yet `stretch`.

    Attributes:
        excludes: Whether the whole interval must lie below the goal, not the figure alone.
    """

    what: str
    found: Callable[[Grid], Estimate]
    goal: float
    stretch: float
    form: str = "{:.1%}"
    excludes: bool = False

    def verdict(self, found):
        if not found.seeds:
            return "not run"
        if found.value <= self.stretch:
            return "**stretch reached**"
        below = found.high < self.goal if self.excludes else found.value <= self.goal
        return "**reached**" if below else "**missed**"


def _error(arm, budget):
    return lambda grid: mean_error(grid, f"{arm}_budget{budget}", budget)


def _beyond(other, budget):
    return lambda grid: difference(grid, f"fmb_budget{budget}", f"{other}_budget{budget}", budget)


def _smallest_budget(grid, threshold=0.30):
    """The smallest budget of `fmb` at which the median of the seeds is at or under a threshold."""
    budgets = sorted(budget for arms, budget, _ in PLAN if "fmb" in arms)
    for budget in budgets:
        errors = grid.at(budget, f"fmb_budget{budget}")[0]
        if len(errors) and np.median(errors) <= threshold:
            return Estimate(budget, np.nan, np.nan, len(errors))
    return Estimate(np.nan, np.nan, np.nan, 0)


GOALS = (
    Goal(
        "epochs to 30 % error: the smallest budget whose median is there (paper: 9)",
        _smallest_budget,
        2,
        1,
        "{:.0f}",
    ),
    Goal("error, 6 epochs (paper: 36.3 %)", _error("fmb", 6), 0.20, 0.17),
    Goal("error, 100 epochs (paper: about 12 %)", _error("fmb", 100), 0.10, 0.09),
    Goal("`w1a1`: error, 6 epochs", _error("w1a1", 6), 0.32, 0.28),
    Goal("`w1a1`: error, 100 epochs", _error("w1a1", 100), 0.17, 0.15),
    *(
        goal
        for budget in (6, 25)
        for goal in (
            Goal(
                f"SE + FMB less no SE, {budget} epochs",
                _beyond("no_se", budget),
                0.0,
                -0.02,
                "{:+.2%}",
                excludes=True,
            ),
            Goal(
                f"SE + FMB less the same SE without FMB, {budget} epochs",
                _beyond("soft", budget),
                0.005,
                0.0,
                "{:+.2%}",
            ),
        )
    ),
)


def arms():
    """The arguments of every arm at every budget it is trained for, by the name of its runs."""
    return {
        f"{arm}_budget{budget}": ARMS[arm] | {"recipe": "fast"}
        for names, budget, _ in PLAN
        for arm in names
    }


def runs():
    """The runs of `PLAN`, in its order."""
    return [
        budget_run(arm, ARMS[arm] | {"dataset": "cifar10"}, budget, seed)
        for names, budget, seeds in PLAN
        for seed in range(seeds)
        for arm in names
    ]


def write_report(results):
    """Draws README.md and budgets.png of a folder from the logs it holds."""
    results.mkdir(parents=True, exist_ok=True)
    grid = Grid(results / "logs", arms())
    rows = []
    for goal in GOALS:
        found = goal.found(grid)
        limits = (goal.form.format(limit) for limit in (goal.goal, goal.stretch))
        rows.append((goal.what, *limits, found.text(goal.form), goal.verdict(found)))
    text = (
        "# What recipe `fast` reaches\n\n"
        "`python training/reproduce.py --profile fast`: test error after the last epoch of a "
        "budget, the rate annealed to zero within it; all training images. `w1`, sigmoid + FMB, "
        "where nothing else is said; means over n seeds, in brackets a 95 % paired bootstrap; "
        "differences in points of error, below 0 SE + FMB is better.\n\n"
        + files.table(("", "goal", "stretch", "measured", ""), rows)
        + "\n"
        + files.table(
            ("budget, epochs", *LABELS.values()),
            [
                (budget, *(_each(grid, arm, budget) for arm in LABELS))
                for budget in sorted({budget for _, budget, _ in PLAN})
            ],
        )
        + "\nMean error, and in brackets that of each seed.\n\n![errors](budgets.png)\n"
    )
    files.replace(results / "README.md", lambda part: part.write_text(text))
    points = {
        label: {
            budget: errors
            for names, budget, _ in PLAN
            if arm in names and (errors := _errors(grid, arm, budget)).size
        }
        for arm, label in LABELS.items()
    }
    figures.draw_budgets(points, PAPER, results / "budgets")


def _errors(grid, arm, budget):
    name = f"{arm}_budget{budget}"
    return grid.at(budget, name)[0] if name in grid.errors else np.array([])


def _each(grid, arm, budget):
    errors = _errors(grid, arm, budget)
    if not errors.size:
        return "-"
    return f"{errors.mean():.2%} ({', '.join(f'{error:.1%}' for error in errors)})"
