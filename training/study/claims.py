"""The paper's claims and figures, and what ours say of each."""

import dataclasses
import itertools

import numpy as np

from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study.estimates import NOT_RUN_YET, Estimate, estimate, percent, points
from larq_seresnet.training.study.grid import (
    THRESHOLD,
    difference,
    epochs_to,
    error_as_spread,
    fewer_epochs,
    mean_error,
    reduction,
)
from larq_seresnet.training.study.measures import FIRST_MODULE, mean_share
from larq_seresnet.training.study.verdicts import Range, all_of

#: Table I: error reduction after epoch 9 against sigmoid without FMB; all 1-bit.
TABLE_I = {"sigmoid_fmb": 0.4464, "tanh_fmb": 0.4072, "tanh": 0.1995}
#: Table II: error at epoch 6.
TABLE_II = {"sigmoid_fmb": 0.3627, "tanh_fmb": 0.4654, "float32_sigmoid": 0.5029}
#: Table III: epochs to 30 % error.
TABLE_III = {"sigmoid_fmb": 9, "sigmoid": 23}
TABLE_III_ARMS = (*TABLE_III, "no_se")
#: Figures 8 and 10.
ALL_FOUR = ("sigmoid", "tanh", "sigmoid_fmb", "tanh_fmb")
#: What is trained for as long as figure 10 is drawn: its arms, and what they are compared with.
TO_THE_END = (*ALL_FOUR, "float32_sigmoid", "no_se")
TABLE_I_EPOCH, TABLE_II_EPOCH, GATES_EPOCH, LAST_EPOCH = 9, 6, 10, 100
AT_LAST, ALIKE = 0.12, 0.01
#: After so many epochs the annealed rate of a second reading is zero.
ANNEALED_EPOCHS = 10
#: Errors that the paper states, by arm and epoch.
STATED = {
    "sigmoid": {TABLE_III["sigmoid"]: THRESHOLD, LAST_EPOCH: AT_LAST},
    "tanh": {LAST_EPOCH: AT_LAST},
    "sigmoid_fmb": {
        TABLE_II_EPOCH: TABLE_II["sigmoid_fmb"],
        TABLE_III["sigmoid_fmb"]: THRESHOLD,
        LAST_EPOCH: AT_LAST,
    },
    "tanh_fmb": {TABLE_II_EPOCH: TABLE_II["tanh_fmb"], LAST_EPOCH: AT_LAST},
    "float32_sigmoid": {TABLE_II_EPOCH: TABLE_II["float32_sigmoid"]},
}
ALMOST_ALL = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper, its figure, ours, and what follows.

    Attributes:
        claim: In words.
        paper: Its figure; empty where there is none.
        ours: With intervals.
        verdict: See `verdicts`.
        brief: Ours, without intervals.
        why: What was measured beside it that explains it.
        size: A second verdict, on an effect as large as the paper's; None where it states none.
        annealed: The figure and the verdict where the rate is annealed; None where that says
            nothing of the claim.
    """

    claim: str
    paper: str
    ours: str
    verdict: str
    brief: str
    why: str
    size: str | None = None
    annealed: tuple[str, str] | None = None


def named(arm):
    """An arm as one says it."""
    said = {"_fmb": " + FMB", "_through": ", straight through", "_none": ", no gradient"}
    for name, words in (said | {"_se": " SE", "_": " "}).items():
        arm = arm.replace(name, words)
    return arm


def around(epoch):
    """An epoch with its neighbours: at a constant rate one alone jumps by points."""
    return np.arange(epoch - 1, epoch + 2)


def annealed(grid, compared, arm, other):
    """`grid.difference` or `grid.reduction` of the same arms, of which the rate was annealed."""
    return compared(grid, f"annealed_{arm}", f"annealed_{other}", ANNEALED_EPOCHS)


def order(steps: list[Estimate]):
    """The verdict on differences that should all be above 0."""
    return all_of(map(Range(low=0.0).judge, steps))


def claims(grid):
    """Every claim of the paper with ours beside it: a list of `Claim`."""
    return [
        *_table_i(grid),
        *_table_ii(grid),
        _table_iii(grid),
        _order(
            grid,
            "the order of sigmoid and tanh reverses with FMB: tanh is better without, sigmoid "
            f"with, epoch {TABLE_I_EPOCH}",
            "",
            [("sigmoid", "tanh"), ("tanh_fmb", "sigmoid_fmb")],
            TABLE_I_EPOCH,
            _why_tanh(grid),
        ),
        _all_alike_at_the_end(grid),
        _saturated(grid),
        _prunable(grid),
    ]


def _table_i(grid):
    saturated = (
        f"even without FMB {_all_saturated(grid).brief()} of the attention values are within 1 % "
        "of 0 or 1"
    )
    tanh = _why_tanh(grid)
    implied = 1 - (1 - TABLE_I["tanh_fmb"]) / (1 - TABLE_I["tanh"])
    steps = [(worse, better) for better, worse in itertools.pairwise([*TABLE_I, "sigmoid"])]
    against_none = [("sigmoid", "no_se"), ("sigmoid_fmb", "no_se")]
    return [
        *(
            _lowers(grid, arm, "sigmoid", claimed, saturated if arm == "sigmoid_fmb" else tanh)
            for arm, claimed in TABLE_I.items()
        ),
        _lowers(grid, "tanh_fmb", "tanh", implied, tanh, " (follows from the two above)"),
        _order(
            grid,
            "Table I: sigmoid + FMB, tanh + FMB, tanh, sigmoid, best first",
            "",
            steps,
            TABLE_I_EPOCH,
            _brief(_steps(grid, against_none, TABLE_I_EPOCH)),
        ),
    ]


def _lowers(grid, arm, base, claimed, why, source=""):
    """The claim that an arm's error is lower than another one's, by a share of the latter."""
    found = reduction(grid, arm, base, around(TABLE_I_EPOCH))
    again = annealed(grid, reduction, arm, base)
    return Claim(
        claim=f"Table I: {named(arm)} lowers the error of {named(base)}, epoch {TABLE_I_EPOCH}",
        paper=f"{percent(claimed)} lower{source}",
        ours=found.text(),
        verdict=order([found]),
        brief=_lower(found),
        why=why,
        size=Range(low=claimed).judge(found),
        annealed=(_lower(again), order([again])),
    )


def _lower(found):
    """Such as "6.5% higher"."""
    if not found.seeds:
        return found.lacking
    return f"{percent(abs(found.value))} {'lower' if found.value >= 0 else 'higher'}"


def _all_saturated(grid):
    """The share of all gates that are 0 or 1 without FMB."""
    modules = grid.modules("sigmoid", GATES_EPOCH)
    return estimate(np.mean, [[mean_share(each, "saturated") for each in modules]])


def _why_tanh(grid):
    costs = _brief(_steps(grid, [("tanh", "no_se"), ("sigmoid", "no_se")], TABLE_I_EPOCH))
    return f"a closed tanh gate is -1: it inverts its channel ({costs})"


def _table_ii(grid):
    steps = [(worse, better) for better, worse in itertools.pairwise(TABLE_II)]
    bare = [
        difference(grid, arm, base, around(TABLE_II_EPOCH)).brief(points)
        for arm, base in (("sigmoid", "no_se"), ("float32_sigmoid", "float32_no_se"))
    ]
    why = "the paper's SE changes the error of a 1-bit network by {}, of a float32 one by {} points"
    by = [points(after - before) for before, after in itertools.pairwise(TABLE_II.values())]
    ahead = points(TABLE_II["float32_sigmoid"] - TABLE_II["sigmoid_fmb"])
    return [
        _order(
            grid,
            f"Table II: sigmoid + FMB, tanh + FMB, float32 sigmoid, best first, epoch "
            f"{TABLE_II_EPOCH}",
            f"by {' and '.join(by)} points",
            steps,
            TABLE_II_EPOCH,
            why.format(*bare),
        ),
        _order(
            grid,
            f"the 1-bit model with FMB beats float32 early, epoch {TABLE_II_EPOCH}",
            f"by {ahead} points",
            [("float32_sigmoid", "sigmoid_fmb")],
            TABLE_II_EPOCH,
            why.format(*bare),
        ),
    ]


def _steps(grid, pairs, epoch):
    """How an order says that arms are worse than others: in words, and by how much."""
    return [
        (f"{named(worse)} minus {named(better)}", difference(grid, worse, better, around(epoch)))
        for worse, better in pairs
    ]


def _order(grid, claim, paper, pairs, epoch, why):
    """The claim that the first arm of each pair is worse than the second."""
    steps = _steps(grid, pairs, epoch)
    again = [annealed(grid, difference, *pair) for pair in pairs]
    text = "; ".join(f"{name}: {each.text(points)}" for name, each in steps)
    return Claim(
        claim=claim,
        paper=paper,
        ours=f"{text} points",
        verdict=order([each for _, each in steps]),
        brief=_brief(steps),
        why=why,
        annealed=(f"{', '.join(each.brief(points) for each in again)} points", order(again)),
    )


def _brief(steps):
    """Such as "tanh minus no SE: +6.1 points"."""
    return ", ".join(f"{name}: {each.brief(points)}" for name, each in steps) + " points"


def _table_iii(grid):
    claimed = 1 - TABLE_III["sigmoid_fmb"] / TABLE_III["sigmoid"]
    least, most = fewer_epochs(grid, "sigmoid_fmb", "sigmoid")
    text = ", ".join(f"{named(arm)}: {epochs_text(grid, arm)}" for arm in TABLE_III)
    span = dataclasses.replace(
        least,
        bootstrap=(least.bootstrap[0], most.bootstrap[1]),
        student=(least.student[0], most.student[1]),
    )
    fewer = _fewer(least, most)
    ours = span.beside(fewer, _bounded) if span.seeds else fewer
    return Claim(
        claim="Table III: sigmoid + FMB needs fewer epochs to 30 % error than sigmoid",
        paper=f"{claimed:.0%} fewer",
        ours=f"{ours} ({text})",
        verdict=order([span]),
        brief=_in_words(fewer),
        why=f"without SE: {_firsts(grid, 'no_se')} epochs; with sigmoid: "
        f"{_firsts(grid, 'sigmoid')}",
        size=Range(low=claimed).judge(span),
    )


def _fewer(least, most):
    if not least.seeds:
        return NOT_RUN_YET
    values = [_bounded(each) for each in (least.value, most.value)]
    return values[0] if values[0] == values[1] else f"from {values[0]} to {values[1]}"


def _in_words(text):
    """Of "-12%" that it is 12% more."""
    if text == NOT_RUN_YET or "no bound" in text:
        return text
    return f"{text.removeprefix('-')} more" if text.startswith("-") else f"{text} fewer"


def _firsts(grid, arm):
    """Epochs to 30 % of every seed, such as "9, 8, >25"."""
    found = ((epochs_to(errors)[0], len(errors)) for _, errors in sorted(grid.errors[arm].items()))
    return ", ".join(str(first or f">{last}") for first, last in found) or NOT_RUN_YET


def _bounded(share):
    return "no bound" if abs(share) > 100 else f"{share:.0%}"


def epochs_text(grid, arm):
    """Epochs to 30 % of every seed, such as "9 (stays from 12), >25"."""
    parts = []
    for _, errors in sorted(grid.errors[arm].items()):
        first, stays = epochs_to(errors)
        if first is None:
            parts.append(f">{len(errors)}")
        else:
            parts.append(f"{first} (stays {f'from {stays}' if stays else 'not'})")
    return ", ".join(parts) or NOT_RUN_YET


def _all_alike_at_the_end(grid):
    found = {arm: error_as_spread(grid, arm, LAST_EPOCH) for arm in ALL_FOUR}
    run = {named(arm): each for arm, each in found.items() if each.seeds}
    texts = (f"{name}: {each.text()}" for name, each in run.items())
    briefs = (f"{name}: {each.brief()}" for name, each in run.items())
    return Claim(
        claim=f"about 12 % error after {LAST_EPOCH} epochs for all four (within a point)",
        paper=percent(AT_LAST),
        ours=", ".join(texts) or NOT_RUN_YET,
        verdict=all_of(map(Range(AT_LAST - ALIKE, AT_LAST + ALIKE).judge, found.values())),
        brief=", ".join(briefs) or NOT_RUN_YET,
        why=f"the rate stays constant; without SE the error is "
        f"{mean_error(grid, 'no_se', LAST_EPOCH).brief()}",
    )


def _saturated(grid):
    first = {
        arm: estimate(
            np.mean,
            [[each[f"{FIRST_MODULE}_se"]["saturated"] for each in grid.modules(arm, GATES_EPOCH)]],
        )
        for arm in ("sigmoid_fmb", "sigmoid")
    }
    every = _all_saturated(grid)
    return Claim(
        claim=(
            f"figures 4 to 6: the first module's attention is almost all 0 or 1 after epoch "
            f"{GATES_EPOCH} ({ALMOST_ALL:.0%} within 1 % of an end of the range)"
        ),
        paper="almost all",
        ours=", ".join(f"{named(arm)}: {each.text()}" for arm, each in first.items())
        + f"; all modules, sigmoid: {every.text()}",
        verdict=Range(low=ALMOST_ALL).judge(first["sigmoid_fmb"]),
        brief=", ".join(f"{named(arm)}: {each.brief()}" for arm, each in first.items()),
        why=f"over all modules, with sigmoid: {every.brief()}",
    )


def _prunable(grid):
    modules = grid.modules("sigmoid_fmb", GATES_EPOCH)
    never = [
        sum(module["never_open"] for module in each.values())
        / sum(module["channels"] for module in each.values())
        for each in modules
    ]
    closed = estimate(np.mean, [[1 - mean_share(each, "open") for each in modules]])
    found = estimate(np.mean, [never])
    return Claim(
        claim=(
            f"half the channels can be pruned: open for none of {GATE_IMAGES} test images, "
            "sigmoid + FMB"
        ),
        paper=percent(0.5),
        ours=f"{found.text()}; gates closed for a given image: {closed.text()}",
        verdict=Range(low=0.5).judge(found),
        brief=found.brief(),
        why=f"{closed.brief()} of the gates are closed for a given image",
    )
