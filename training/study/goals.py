"""What recipe `fast` reaches: errors at budgets, and what SE and FMB are worth in them."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from larq_seresnet import files
from larq_seresnet.arguments import SIZES
from larq_seresnet.training import data, flags
from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study import document, figures, modules, time_to_error
from larq_seresnet.training.study.claims import STATED
from larq_seresnet.training.study.estimates import (
    NOT_RUN,
    UNKNOWN,
    Estimate,
    each_seed,
    exact_percent,
    hundredths,
)
from larq_seresnet.training.study.grid import Grid, difference, mean_error
from larq_seresnet.training.study.measures import mean_count, mean_share
from larq_seresnet.training.study.runs import Run, arms_of, budget_arm, budget_errors, budget_run
from larq_seresnet.training.study.verdicts import HOLDS, Range, of_goal

#: Teaches the long runs.
TEACHER = Run(
    "teacher",
    {
        "precision": "float32",
        "fmb": False,
        "attention": None,
        "filters": (32, 64, 128),
        "dataset": "cifar10",
        "epochs": 40,
        "crop": 4,
        "held_out": 5000,
        "compute_dtype": "bfloat16",
    },
)
#: What the long runs have in common.
_LONG: dict[str, Any] = {
    "crop": 4,
    "teacher": f"runs/{TEACHER.name}",
    "teacher_share": 0.45,
    "teacher_temperature": 4.0,
}
LONG_EPOCHS = 100
#: What the sizes fix, less what means nothing for `w1`.
_XS, _S, _M = (
    {name: value for name, value in SIZES[f"SEResNet14{size}"].items() if name != "shift"}
    for size in ("XS", "S", "M")
)
#: By name, the arguments in which an arm differs from the defaults: `w1`, sigmoid + FMB.
ARMS: dict[str, dict[str, Any]] = {
    "fmb": {},
    "soft": {"fmb": False},
    "no_se": {"attention": None},
    "middle": {"gate_at": "middle"},
    "s": _S | _LONG,
    "s_1bit": _S | {"ends": None} | _LONG,
    "s_no_se": _S | {"attention": None} | _LONG,
    "s_w1a1": _S | {"precision": "w1a1", "shift": True} | _LONG,
    "xs": _XS | _LONG,
    "m": _M | _LONG,
}
LABELS = {
    "fmb": "w1, SE + FMB",
    "soft": "w1, SE without FMB",
    "no_se": "w1, no SE",
    "middle": "w1, SE + FMB in the middle of blocks",
    "s": "S",
    "s_1bit": "S, one bit everywhere",
    "s_no_se": "S, no SE",
    "s_w1a1": "S, w1a1",
    "xs": "XS",
    "m": "M",
}
#: Arms, their budget in epochs, and how many seeds.
PLAN = (
    (("xs", "s", "s_1bit", "m", "s_w1a1", "s_no_se"), LONG_EPOCHS, 1),
    (("fmb",), 1, 5),
    (("fmb", "soft", "no_se", "middle"), 6, 5),
    (("fmb", "soft", "no_se"), 25, 3),
    (("s", "s_1bit"), 25, 2),
)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure to be reached: `found` of the logs, at most `goal`, better yet `stretch`.

    Attributes:
        goal, stretch: None for a figure that stands beside the others, without a verdict.
        by_interval, seeds: As of a `verdicts.Range`.
    """

    what: str
    found: Callable[[Grid], Estimate]
    goal: float | None
    stretch: float | None
    form: Callable[[float], str] = exact_percent
    by_interval: bool = False
    seeds: int = 1

    def verdict(self, found):
        if self.goal is None:
            return "" if found.seeds else found.lacking
        goal = Range(high=self.goal, by_interval=self.by_interval, seeds=self.seeds).judge(found)
        stretch = goal == HOLDS and Range(high=self.stretch, by_interval=False).judge(found)
        return "**stretch reached**" if stretch == HOLDS else of_goal(goal, found)


def _error(arm, budget):
    return lambda grid: mean_error(grid, budget_arm(arm, budget), budget)


def _beyond(other, budget, arm="fmb"):
    arms = budget_arm(arm, budget), budget_arm(other, budget)
    return lambda grid: difference(grid, *arms, budget)


def _share_of_plain(grid):
    found = time_to_error.read(grid.logs.parent)
    if found is None:
        return NOT_RUN
    return Estimate(time_to_error.share_of_plain(found), UNKNOWN, UNKNOWN, 1)


#: Sizes that goals are about: the bytes that an LCE file may have.
MOST_BYTES = {"s_1bit": 40_000, "s": 40_000, "m": 70_000, "xs": 20_000, "s_w1a1": 45_000}
GOALS = (
    Goal("S, one bit everywhere: error, 100 epochs", _error("s_1bit", 100), 0.105, 0.095),
    Goal("S: error, 100 epochs", _error("s", 100), 0.095, 0.087),
    Goal("M: error, 100 epochs", _error("m", 100), 0.085, 0.075),
    Goal("XS: error, 100 epochs", _error("xs", 100), 0.14, 0.125),
    Goal("S, `w1a1`: error, 100 epochs", _error("s_w1a1", 100), 0.15, 0.13),
    Goal("S minus S without SE, 100 epochs", _beyond("s_no_se", 100, "s"), None, None, hundredths),
    Goal("error, 1 epoch", _error("fmb", 1), 0.28, 0.26, seeds=5),
    Goal("error, 6 epochs (paper: 36.3 %)", _error("fmb", 6), 0.16, 0.15, seeds=5),
    Goal("error, 25 epochs", _error("fmb", 25), 0.13, 0.12, seeds=3),
    *(
        goal
        for budget, seeds in ((6, 5), (25, 3))
        for goal in (
            Goal(
                f"SE + FMB minus no SE, {budget} epochs",
                _beyond("no_se", budget),
                0.0,
                -0.02,
                hundredths,
                by_interval=budget == 6,
                seeds=seeds,
            ),
            Goal(
                f"SE + FMB minus the same SE without FMB, {budget} epochs",
                _beyond("soft", budget),
                0.003,
                0.0,
                hundredths,
                seeds=seeds,
            ),
        )
    ),
    Goal(
        "SE without FMB minus no SE, 6 epochs", _beyond("no_se", 6, "soft"), None, None, hundredths
    ),
    Goal(
        "gates in the middle of blocks minus at their end, 6 epochs",
        _beyond("fmb", 6, "middle"),
        None,
        None,
        hundredths,
    ),
    Goal(
        "seconds to 20 % error: sooner than plain Keras (see below)",
        _share_of_plain,
        1 / 5,
        1 / 8,
        time_to_error.times_sooner,
    ),
)


def runs():
    """The runs of `PLAN`, in its order."""
    return [
        budget_run(arm, ARMS[arm], budget, seed)
        for names, budget, seeds in PLAN
        for seed in range(seeds)
        for arm in names
    ]


def write_report(results):
    """Draws README.md and budgets.png of a folder from the logs it holds."""
    grid = Grid(results / "logs", arms_of(runs()))
    opened = modules.occupancy(grid, budget_arm("fmb", 25), results)
    text = (
        _introduction(grid)
        + _table_of_goals(grid)
        + "\n"
        + _table_of_files(results.parent / "device")
        + _table_of_errors(grid)
        + f"\nMean error, with that of each seed in brackets. {_gates(grid)}From "
        f"{grid.provenance()}\n\n![errors](budgets.png)\n"
        + (f"\n{opened} SE + FMB.\n" if opened else "")
        + _time_to_error(results)
    )
    document.write(results / "README.md", text)
    figures.draw_budgets(_drawn(grid), STATED["sigmoid_fmb"], results / "budgets")


def _introduction(grid):
    return (
        "# What recipe `fast` reaches\n\n"
        "`python training/reproduce.py --profile goals`: test error after the last epoch of a "
        "budget over which the learning rate is annealed to zero. Goals and stretch goals were set "
        "before the runs. Earlier ones, for an older copy of the images (commit 4a4b8a2), are no "
        "longer pursued, the missed ones neither: 10 % after 100 epochs with He's widths (14.3 % "
        "there), 17 % with `w1a1` (19.9 %), and 0.50 points for FMB (0.51 after 6 epochs, 0.73 "
        f"after 25).\n\n{data.describe(*grid.data())}\n\n"
        "- All arms are `w1` with sigmoid + FMB unless stated otherwise.\n"
        "- Means over n seeds, with 95 % intervals: in brackets by paired bootstrap, t by "
        "Student's t. SE + FMB beats no SE at 6 epochs only if all of the latter lies below 0. "
        'With fewer seeds than planned the verdict is "cannot be told", and so it is where the '
        "whole interval counts and 0 lies in it.\n"
        "- Errors are those of the logs, in the dtype that layers were computed in; in float32 "
        "weights trained in bfloat16 err a few hundredths of a point more or less.\n"
        "- Differences are in points of error; below 0 the first is better. The recipe was "
        "developed with SE + FMB, so if it favours an arm, it is that one.\n"
        '- XS, S and M are SEResNet14XS, S and M; "one bit everywhere" is S without 8-bit ends. '
        f"They are trained with crops of {_LONG['crop']} pixels and taught "
        f"(share {_LONG['teacher_share']}, temperature {_LONG['teacher_temperature']}) by a "
        "float32 network trained without 5,000 held-out training images:\n\n"
        f"      python training/train.py {shlex.join(flags.words(TEACHER.arguments))} --run-dir "
        f"{_LONG['teacher']}\n\n"
    )


def _table_of_goals(grid):
    rows = []
    for goal in GOALS:
        found = goal.found(grid)
        limits = ("-" if limit is None else goal.form(limit) for limit in (goal.goal, goal.stretch))
        rows.append((goal.what, *limits, found.text(goal.form), goal.verdict(found)))
    return files.table(("", "goal", "stretch", "measured", "verdict"), rows)


def _table_of_files(device):
    """The files that the goals on sizes are about, from their proofs."""
    rows = []
    for arm, limit in MOST_BYTES.items():
        path = device / arm / "lce_1bit_half_fewest_bytes.json"
        if path.exists():
            proof = json.loads(path.read_text())
            error, images = proof["converted_error"], proof["images"]
            facts = f"{proof['bytes']:,}", f"{proof['memory'] / 1000:,.0f} kB"
            rows.append((LABELS[arm], f"{limit:,}", *facts, f"{error:.2%} of {images:,} images"))
    if not rows:
        return ""
    return (
        files.table(("LCE file", "bytes, at most", "bytes", "memory", "test error"), rows)
        + "\nThe files of these goals, `convert.py --weights 1bit_half --memory fewest-bytes "
        "--strip`: the fewest bytes, for more memory than by default. Their errors are those of "
        "the files in float32, the ones above those of the training.\n\n"
    )


def _table_of_errors(grid):
    rows = [
        (budget, *(each_seed(budget_errors(grid, arm, budget)) for arm in LABELS))
        for budget in sorted({budget for _, budget, _ in PLAN})
    ]
    return files.table(("budget, epochs", *LABELS.values()), rows)


def _drawn(grid):
    """By label and budget the errors of the seeds there are."""
    return {
        label: {
            budget: errors
            for names, budget, _ in PLAN
            if arm in names and (errors := budget_errors(grid, arm, budget)).size
        }
        for arm, label in LABELS.items()
    }


def _time_to_error(results):
    """A section on it, if it was measured."""
    found = time_to_error.read(results)
    if found is None:
        return ""
    return (
        "\n## Time to an error\n\n"
        "`python training/study/time_to_error.py --out-dir results/goals`: how long a network of "
        "1-bit weights trains until its test error is at or below a given one. Plain Keras is what "
        "one writes first: `Adam(1e-3)` in float32, batches of 128, tf.data, the same network "
        "without SE; it trains until the test after an epoch is there. Recipe `fast`, with SE and "
        "FMB, anneals its rate over a number of epochs that is set beforehand: it is trained anew "
        "for 1, 2, 3, ... epochs, and the time is that of the first training that ends there, "
        "without those before it. Both in one run on one machine; testing is not timed.\n\n"
        + time_to_error.markdown(found)
    )


def _gates(grid, budget=6):
    """A sentence on what the gates of SE + FMB do after a budget."""
    found = grid.modules(budget_arm("fmb", budget), budget)
    if not found:
        return ""
    is_open = np.mean([mean_share(each, "open") for each in found])
    always, channels = (mean_count(found, key) for key in ("always_open", "channels"))
    return (
        f"After {budget} epochs {is_open:.0%} of the gates of SE + FMB are open; "
        f"{always:.0f} of {channels:.0f} channels are open for every one of {GATE_IMAGES} test "
        f"images (n = {len(found)}). "
    )
