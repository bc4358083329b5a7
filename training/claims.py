"""The paper's claims and figures, and what ours say of each."""

import dataclasses
import itertools

import numpy as np

from larq_seresnet.training.grid import (
    Estimate,
    difference,
    epochs_to,
    estimate,
    fewer_epochs,
    mean_error,
    reduction,
)
from larq_seresnet.training.measures import FIRST_MODULE

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
#: Table I: error reduction after epoch 9 against sigmoid without FMB; all 1-bit.
TABLE_I = {"sigmoid_fmb": 0.4464, "tanh_fmb": 0.4072, "tanh": 0.1995}
#: Table II: error at epoch 6.
TABLE_II = {"sigmoid_fmb": 0.3627, "tanh_fmb": 0.4654, "float32_sigmoid": 0.5029}
#: Table III: epochs to 30 % error.
TABLE_III = {"sigmoid_fmb": 9, "sigmoid": 23}
TABLE_III_ARMS = (*TABLE_III, "no_se")
#: Figures 8 and 10.
ALL_FOUR = ("sigmoid", "tanh", "sigmoid_fmb", "tanh_fmb")
TABLE_I_EPOCH, TABLE_II_EPOCH, GATES_EPOCH, LAST_EPOCH = 9, 6, 10, 100
AT_LAST, ALIKE = 0.12, 0.01
ALMOST_ALL = 0.9


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, its figure, ours, and what follows."""

    claim: str
    paper: str
    ours: str
    verdict: str


def named(arm):
    """An arm as one says it."""
    return arm.replace("_fmb", " + FMB").replace("_se", " SE").replace("_", " ")


def at_least(found: Estimate, claimed: float):
    """Verdict on a figure that should be at least what the paper says."""
    if found.low >= claimed:
        return HOLDS
    return FAILS if found.high < claimed else OPEN  # no interval compares with nothing


def order(steps: list[Estimate]):
    """Verdict on differences that should all be above 0."""
    if all(each.low > 0 for each in steps):
        return HOLDS
    return FAILS if any(each.high < 0 for each in steps) else OPEN


def alike(found: list[Estimate], claimed: float, margin: float):
    """Verdict on figures that should all be what the paper says, give or take a margin."""
    if all(claimed - margin <= each.low and each.high <= claimed + margin for each in found):
        return HOLDS
    apart = (each.low > claimed + margin or each.high < claimed - margin for each in found)
    return FAILS if any(apart) else OPEN


def claims(grid):
    """Every claim of the paper with ours beside it: a list of `Claim`."""
    return [
        *_table_i(grid),
        _order(
            "Table II: sigmoid + FMB, tanh + FMB, float32 sigmoid, best first",
            [
                difference(grid, worse, better, TABLE_II_EPOCH)
                for better, worse in itertools.pairwise(TABLE_II)
            ],
        ),
        _table_iii(grid),
        _order(
            "the order of sigmoid and tanh reverses with FMB: tanh is better without, sigmoid with",
            [
                difference(grid, "sigmoid", "tanh", TABLE_I_EPOCH),
                difference(grid, "tanh_fmb", "sigmoid_fmb", TABLE_I_EPOCH),
            ],
        ),
        _order(
            f"the 1-bit model with FMB beats float32 early, at epoch {TABLE_II_EPOCH}",
            [difference(grid, "float32_sigmoid", "sigmoid_fmb", TABLE_II_EPOCH)],
        ),
        _all_alike_at_the_end(grid),
        _saturated(grid),
        _prunable(grid),
    ]


def _table_i(grid):
    found = {arm: reduction(grid, arm, "sigmoid", TABLE_I_EPOCH) for arm in TABLE_I}
    steps = [
        difference(grid, worse, better, TABLE_I_EPOCH)
        for better, worse in itertools.pairwise([*TABLE_I, "sigmoid"])
    ]
    return [
        *(
            Claim(
                f"Table I: {named(arm)} lowers the error of 1-bit sigmoid after epoch "
                f"{TABLE_I_EPOCH} by this part of it",
                f"{claimed:.1%}",
                found[arm].text(),
                at_least(found[arm], claimed),
            )
            for arm, claimed in TABLE_I.items()
        ),
        _order("Table I: sigmoid + FMB, tanh + FMB, tanh, sigmoid, best first", steps),
    ]


def _order(claim, steps):
    text = ", ".join(each.text("{:+.1%}") for each in steps)
    return Claim(claim, "each step above 0", text, order(steps))


def _table_iii(grid):
    claimed = 1 - TABLE_III["sigmoid_fmb"] / TABLE_III["sigmoid"]
    least, most = fewer_epochs(grid, "sigmoid_fmb", "sigmoid")
    text = ", ".join(f"{named(arm)}: {epochs_text(grid, arm)}" for arm in TABLE_III)
    span = Estimate(least.value, least.low, most.high, least.seeds)
    return Claim(
        "Table III: sigmoid + FMB needs this part fewer epochs to 30 % error than sigmoid",
        f"{claimed:.0%}",
        f"{_fewer_text(least, most)} ({text})",
        at_least(span, claimed),
    )


def _fewer_text(least, most):
    if not least.seeds:
        return "not run"
    values = [_bounded(each) for each in (least.value, most.value)]
    text = values[0] if values[0] == values[1] else f"from {values[0]} to {values[1]}"
    if not np.isnan(least.low):
        text += f" [{_bounded(least.low)}, {_bounded(most.high)}]"
    return f"{text} (n = {least.seeds})"


def _bounded(share):
    return "no bound" if share < -100 else f"{share:.0%}"


def epochs_text(grid, arm):
    """Epochs to 30 % of every seed, such as "9 (stays from 12), >25"."""
    parts = []
    for _, errors in sorted(grid.errors[arm].items()):
        first, stays = epochs_to(errors)
        if first is None:
            parts.append(f">{len(errors)}")
        else:
            parts.append(f"{first} (stays {f'from {stays}' if stays else 'not'})")
    return ", ".join(parts) or "not run"


def _all_alike_at_the_end(grid):
    found = [mean_error(grid, arm, LAST_EPOCH) for arm in ALL_FOUR]
    text = ", ".join(each.text() for each in found if each.seeds) or "not run"
    return Claim(
        f"about 12 % error after {LAST_EPOCH} epochs for all four (within a point)",
        f"{AT_LAST:.0%}",
        text,
        alike(found, AT_LAST, ALIKE),
    )


def _saturated(grid):
    modules = grid.modules("sigmoid", GATES_EPOCH)
    found = estimate(np.mean, [[each[f"{FIRST_MODULE}_se"]["saturated"] for each in modules]])
    return Claim(
        f"gates are almost all 0 or 1 after epoch {GATES_EPOCH} (first module, sigmoid: "
        f"{ALMOST_ALL:.0%} within 1 % of the range)",
        "almost all",
        found.text(),
        at_least(found, ALMOST_ALL),
    )


def _prunable(grid):
    modules = [list(each.values()) for each in grid.modules("sigmoid_fmb", GATES_EPOCH)]
    shares = [
        sum(module["never_open"] for module in each) / sum(module["channels"] for module in each)
        for each in modules
    ]
    found = estimate(np.mean, [shares])
    return Claim(
        "half the channels can be pruned: never open for any of 256 test images, sigmoid + FMB",
        "50%",
        found.text(),
        at_least(found, 0.5),
    )
