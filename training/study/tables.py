"""The report on the paper: its tables beside ours, drawn from the logs of the grid alone."""

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import callbacks, config, data
from larq_seresnet.training.study import document, modules
from larq_seresnet.training.study.claims import (
    ALL_FOUR,
    ANNEALED_EPOCHS,
    AT_LAST,
    LAST_EPOCH,
    TABLE_I,
    TABLE_I_EPOCH,
    TABLE_II,
    TABLE_II_EPOCH,
    TABLE_III,
    TABLE_III_ARMS,
    TO_THE_END,
    annealed,
    around,
    claims,
    epochs_text,
    named,
)
from larq_seresnet.training.study.estimates import FEWEST_SEEDS, points
from larq_seresnet.training.study.grid import difference, epochs_to, mean_error, reduction
from larq_seresnet.training.study.verdicts import FAILS, HOLDS, OPEN

TUNING_EPOCHS = 3
#: At a constant rate the error of one epoch jumps: the mean of so many tells where a run is.
STEADY_EPOCHS = 10
#: The question that a control answers, its arm, and the one it is compared with.
QUESTIONS = (
    ("What does the paper's 1-bit SE add?", "sigmoid", "no_se"),
    ("SE with float32 weights?", "float32_se", "no_se"),
    ("Our SE: scaled 1-bit weights, gates that start open?", "scaled", "no_se"),
    ("The paper's SE in a float32 network?", "float32_sigmoid", "float32_no_se"),
    ("FMB on the paper's SE, its gates never learning?", "sigmoid_fmb", "sigmoid"),
    ("The same with tanh?", "tanh_fmb", "tanh"),
    ("Gates that learn, straight through?", "sigmoid_fmb_through", "sigmoid_fmb"),
    ("The same with tanh?", "tanh_fmb_through", "tanh_fmb"),
    ("FMB on our SE, its gates learning?", "scaled_fmb_through", "scaled"),
    ("FMB on our SE, its gates never learning?", "scaled_fmb_none", "scaled"),
    ("Our SE with FMB, against no SE?", "scaled_fmb_through", "no_se"),
    ("1-bit activations: the paper's SE, against none?", "w1a1_sigmoid", "w1a1_no_se"),
    ("1-bit activations: FMB on sigmoid?", "w1a1_sigmoid_fmb", "w1a1_sigmoid"),
    ("1-bit activations: FMB on tanh?", "w1a1_tanh_fmb", "w1a1_tanh"),
)
#: Arms that are trained with an annealed rate too, and which each is compared with.
ANNEALED = {
    "sigmoid": "no_se",
    "tanh": "sigmoid",
    "sigmoid_fmb": "sigmoid",
    "tanh_fmb": "sigmoid",
    "float32_sigmoid": "sigmoid_fmb",
}
#: What else the paper can mean: an arm, and the one without FMB that its error is compared with.
READINGS = (
    ("sigmoid_fmb_through", "sigmoid"),
    ("tanh_fmb_through", "sigmoid"),
    ("scaled_fmb_through", "scaled"),
    ("scaled_fmb_none", "scaled"),
    ("w1a1_sigmoid_fmb", "w1a1_sigmoid"),
    ("w1a1_tanh_fmb", "w1a1_sigmoid"),
    ("w1a1_tanh", "w1a1_sigmoid"),
)
#: By figure, what it shows.
FIGURES = {
    3: "The paper's SE with sigmoid, without FMB, in a 1-bit network and in a float32 one",
    4: "The first SE module's attention M_c for each of its channels after epoch 1, sigmoid + FMB, "
    "seed 0: a dot is one of 256 test images",
    5: "The same after epoch 10",
    6: "How often each value of figure 5 occurs, before and after FMB. The paper's own figures 4 "
    "to 6 show values that are almost all 0 or 1",
    7: "Sigmoid and tanh, 1-bit, without FMB",
    8: "Sigmoid and tanh, with and without FMB, 1-bit",
    9: "Until 30 % error (black line), 1-bit, with FMB, without it, and without SE",
    10: "Up to 100 epochs; the paper's four arms, float32 and no SE",
}
#: What all curves have in common.
_CURVES = (
    "Thin lines are single seeds, a thick line is their mean, a band its 95 % interval by "
    "Student's t for three seeds or more; where a thick line ends, fewer seeds go on. Crosses are "
    "what the paper states.\n\n"
)


def report(grid, blocks, results=None):
    """report.md: a summary, then the paper's tables beside ours, then what explains them.

    Args:
        grid: A `Grid`.
        blocks: Arms by block, in order.
        results: The folder where it draws which channels open; None draws nothing.
    """
    opened = modules.occupancy(grid, "sigmoid_fmb", results) if results else ""
    told = claims(grid)
    sections = (
        ("# The paper's claims, tested", _summary(told)),
        ("## The verdicts", f"{_verdicts(told)}\n{_method(grid)}"),
        ("## Table I: error reduction after epoch 9 against sigmoid without FMB", _table_i(grid)),
        ("## Table II: error at epoch 6", _table_ii(grid)),
        ("## Table III: epochs to 30 % error", _table_iii(grid)),
        ("## The same with an annealed rate", _annealed(grid, told)),
        ("## What explains the differences", _explanations(grid)),
        (f"## Up to {LAST_EPOCH} epochs", _to_the_end(grid)),
        ("## All arms", _all_arms(grid, blocks)),
        (
            "## What the SE modules do",
            modules.table(grid, blocks) + f"\n{opened} Sigmoid + FMB.\n" * bool(opened),
        ),
        ("## Figures", _figures(grid)),
        ("## How the rate was chosen", _tuning(grid.logs.with_name("tuning"))),
    )
    return "\n".join(f"{title}\n\n{text}" for title, text in sections)


def _headline(found):
    """How many claims hold, in a sentence."""
    by_verdict = {
        verdict: [each.claim for each in found if each.verdict == verdict]
        for verdict in (HOLDS, FAILS, OPEN)
    }
    text = f"**Of the paper's {len(found)} claims tested here {len(by_verdict[HOLDS])} "
    text += "holds" if len(by_verdict[HOLDS]) == 1 else "hold"
    text += f" and {len(by_verdict[FAILS])} do not"
    text += f"; {len(by_verdict[OPEN])} cannot be told" * bool(by_verdict[OPEN])
    return text + ".**" + "".join(f" What holds: {claim}." for claim in by_verdict[HOLDS])


def _summary(told):
    rows = [(each.claim, each.paper, each.brief, _both(each), each.why) for each in told]
    return (
        f"{_headline(told)}\n\n"
        + files.table(("claim", "paper", "here", "verdict", "measured beside it"), rows)
        + "\nThe paper is read literally: `w1` (1-bit weights, float activations), SE weights of "
        "+-1 without a scale, no gradient through FMB, so that its gates never learn, and the "
        "filters of He's ResNet. Verdicts are on this reading alone. Arms are named by attention "
        "and FMB: sigmoid and tanh are the paper's 1-bit SE without FMB; straight through: FMB "
        "passes its gradient on; scaled: this package's own SE, 1-bit weights times fan-in^-1/2 "
        "and gates that start open; no SE: the same network without attention; float32 and w1a1: "
        "all weights in float32, or 1-bit activations as well. A minus B: how many points of error "
        "A is worse than B.\n"
    )


def _both(claim):
    """The verdict, and that on the size of the effect where it differs."""
    differs = claim.size not in (None, claim.verdict)
    size = f"; an effect of the paper's size: {claim.size}"
    return f"**{claim.verdict}**{size * differs}"


def _verdicts(told):
    rows = [
        (each.claim, each.paper, each.ours, f"**{each.verdict}**", each.size or "-")
        for each in told
    ]
    return files.table(("claim", "paper", "here", "verdict", "of the paper's size"), rows)


def _method(grid):
    settings = grid.data()[0]
    return (
        f"{data.describe(*grid.data())} Errors are test errors after the epoch named. Verdicts on "
        "Tables I and II and on orders use the mean of that epoch and its two neighbours, because "
        "at a constant rate the error of one epoch jumps by points. Recipe "
        f"`{settings.recipe}`: constant rate {settings.learning_rate}, batches of "
        f"{settings.batch_size}, random crops{' and flips' * bool(settings.flip)}, filters "
        f"{settings.filters}. The rate was chosen for no SE and sigmoid, as described at the end, "
        "and used for all arms. For n seeds there are two 95 % intervals: in brackets by paired "
        f"bootstrap, t by Student's t. With {FEWEST_SEEDS} seeds a bootstrap is too narrow (it "
        "covers the mean 75 times in 100), so verdicts use Student's t: a claim holds, or does "
        "not hold, if the whole interval says so, and so does an effect that is as large as the "
        "paper's or larger. A single seed gives no verdict, "
        f"except on errors after {LAST_EPOCH} epochs: their t borrows the spread between seeds "
        f"from the last epoch that {FEWEST_SEEDS} seeds have reached. This rule was made after "
        "these runs had been seen; without it that claim could not be told.\n\n"
        "Made by `python training/reproduce.py`, of whose profiles `full` has the most seeds, from "
        f"{grid.provenance()}\n"
    )


def _table_i(grid):
    header = (f"mean of epochs {TABLE_I_EPOCH - 1} to {TABLE_I_EPOCH + 1}", "epoch 9 alone")
    rows = [
        (
            named(arm),
            f"{claimed:.2%}",
            reduction(grid, arm, "sigmoid", around(TABLE_I_EPOCH)).text(),
            reduction(grid, arm, "sigmoid", TABLE_I_EPOCH).text(),
        )
        for arm, claimed in TABLE_I.items()
    ]
    readings = [
        (
            named(arm),
            named(base),
            reduction(grid, arm, base, around(TABLE_I_EPOCH)).text(),
            reduction(grid, arm, base, TABLE_I_EPOCH).text(),
        )
        for arm, base in READINGS
    ]
    return (
        files.table(("1-bit", "paper", *header), rows)
        + "\nOther readings: gates that learn, straight through; this package's own SE, scaled; "
        "1-bit activations.\n\n" + files.table(("1-bit", "against", *header), readings)
    )


def _table_ii(grid):
    rows = [
        (named(arm), f"{claimed:.2%}", mean_error(grid, arm, TABLE_II_EPOCH).text())
        for arm, claimed in TABLE_II.items()
    ]
    return files.table(("", "paper", "ours"), rows)


def _table_iii(grid):
    rows = [(named(arm), TABLE_III.get(arm, "-"), epochs_text(grid, arm)) for arm in TABLE_III_ARMS]
    return (
        "The first epoch with an error of 30 % or less; in brackets the epoch from which on the "
        "error stays there to the end of the run; > if the run ended before that.\n\n"
        + files.table(("1-bit", "paper", "ours, one per seed"), rows)
    )


def _annealed(grid, told):
    """The claims on early epochs where the rate ends at 0: no single epoch's jump decides."""
    rows = []
    for arm, against in ANNEALED.items():
        errors = [mean_error(grid, f"annealed_{each}", ANNEALED_EPOCHS) for each in (arm, against)]
        found = annealed(grid, difference, arm, against).text(points)
        rows.append((named(arm), errors[0].text(), named(against), errors[1].text(), found))
    again = [each for each in told if each.annealed]
    changed = [each.claim for each in again if each.annealed[1] != each.verdict]
    which = f"{len(changed)} of them: {'; '.join(changed)}" if changed else "none of them"
    return (
        "A second reading, beside the literal one: the same arms and networks, but the rate rises "
        f"and then falls to 0 within {ANNEALED_EPOCHS} epochs, so that the error after the last "
        f"one does not depend on a jump. It covers {len(again)} claims, and changes the verdict on "
        f"{which}.\n\n"
        + files.table(
            ("claim", "constant rate", "verdict", "annealed", "verdict"),
            [(each.claim, each.brief, each.verdict, *each.annealed) for each in again],
        )
        + "\n"
        + files.table(
            ("", f"error after {ANNEALED_EPOCHS} epochs", "against", "", "points of error"), rows
        )
    )


def _explanations(grid):
    epochs = np.arange(1, 11)
    rows = [
        (
            question,
            f"{named(arm)} minus {named(other)}",
            difference(grid, arm, other, 10).text(points),
            difference(grid, arm, other, epochs).text(points),
        )
        for question, arm, other in QUESTIONS
    ]
    return (
        "Differences in points of error, paired by seed; below 0 the first arm is better.\n\n"
        + files.table(("question", "arms", "after epoch 10", "mean of epochs 1 to 10"), rows)
    )


def _to_the_end(grid):
    """Where the longest run of each arm of figure 10 is at its end, and where all are at once."""
    longest = {arm: max(grid.errors[arm].values(), key=len, default=[]) for arm in TO_THE_END}
    longest = {arm: errors for arm, errors in longest.items() if len(errors) >= STEADY_EPOCHS}
    if not longest:
        return "No run is as long yet.\n"
    shared = min(map(len, longest.values()))
    is_uneven = len({len(errors) for errors in longest.values()}) > 1

    def steady(errors, last):
        return f"{errors[last - STEADY_EPOCHS : last].mean():.1%}"

    rows = [
        (
            named(arm),
            f"about {AT_LAST:.0%}" if arm in ALL_FOUR else "-",
            len(errors),
            f"{errors[-1]:.1%}",
            *[steady(errors, len(errors))] * is_uneven,
            steady(errors, shared),
        )
        for arm, errors in longest.items()
    ]
    between = f"epochs {shared - STEADY_EPOCHS + 1} to {shared}"
    header = (
        "arm",
        "paper",
        "epochs",
        "error after the last",
        *[f"mean of the last {STEADY_EPOCHS}"] * is_uneven,
        f"mean of {between}",
    )
    ranked = sorted(longest, key=lambda arm: longest[arm][shared - STEADY_EPOCHS : shared].mean())
    return files.table(header, rows) + (
        f"\nThe longest run of each arm; figure 10 draws them. In {between} they rank, best first: "
        f"{', '.join(map(named, ranked))}; so what is true after {TABLE_I_EPOCH} epochs need not "
        "be so in the end. The rate stays the same to the end, as recipe `plain` and the claims on "
        "early epochs have it; the pretrained weights of this package come from a rate that falls "
        "to zero.\n"
    )


def _all_arms(grid, blocks):
    rows = [
        (block, named(arm), *(mean_error(grid, arm, epoch).text() for epoch in (6, 10, 25)))
        for block, arms in blocks.items()
        for arm in arms
    ]
    return files.table(("block", "arm", "epoch 6", "epoch 10", "epoch 25"), rows)


def gates_log(grid):
    """The gate records that figures 4 to 6 show."""
    return grid.logs / "sigmoid_fmb_seed0.npz"


def _figures(grid):
    recorded = gates_log(grid).exists()
    return _CURVES + "\n".join(
        f"Figure {number}: {what}.\n\n![Figure {number}](figure{number:02d}.png)\n"
        if recorded or number not in (4, 5, 6)
        else f"Figure {number}: {what}: no gates are recorded yet.\n"
        for number, what in FIGURES.items()
    )


def _tuning(logs):
    found: dict[float, dict[str, list[float]]] = {}
    for path in sorted(logs.glob("*_rate*.csv")):
        arm = path.stem.split("_rate")[0]
        rate = config.read(path.with_suffix(".json"))[0].learning_rate
        errors = [row["test_error"] for row in callbacks.read_log(path)]
        found.setdefault(rate, {})[arm] = [np.mean(errors[-TUNING_EPOCHS:]), errors[-1]]
    if not found:
        return "There are no logs of it.\n"
    arms = sorted({arm for errors in found.values() for arm in errors})
    rows = [
        (
            f"**{rate}**" if rate == config.RECIPES["plain"].learning_rate else rate,
            *(
                "{:.1%} ({:.1%})".format(*errors[arm]) if arm in errors else "not run"
                for arm in arms
            ),
        )
        for rate, errors in sorted(found.items())
    ]
    return (
        f"Error on held-out training images (`reproduce.py --profile tuning`), mean of the last "
        f"{TUNING_EPOCHS} of 5 epochs, with that of the last one in brackets; one seed. The chosen "
        f"rate is in bold. {document.notice(logs)}".strip()
        + "\n\n"
        + files.table(("rate", *map(named, arms)), rows)
    )


def summary(grid):
    """summary.csv: one row a run."""
    lines = ["arm,seed,epochs,error_6,error_9,error_10,last_error,epochs_to_30,stays_from"]
    for arm, seeds in grid.errors.items():
        for seed, errors in sorted(seeds.items()):
            at = [
                f"{errors[epoch - 1]:.4f}" if len(errors) >= epoch else "" for epoch in (6, 9, 10)
            ]
            reached = ["" if each is None else str(each) for each in epochs_to(errors)]
            lines.append(
                ",".join([arm, str(seed), str(len(errors)), *at, f"{errors[-1]:.4f}", *reached])
            )
    return "\n".join(lines) + "\n"
