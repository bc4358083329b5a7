"""The report on the paper: its tables beside ours, drawn from the logs of the grid alone."""

import re

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import callbacks, config
from larq_seresnet.training.claims import (
    GATES_EPOCH,
    TABLE_I,
    TABLE_I_EPOCH,
    TABLE_II,
    TABLE_II_EPOCH,
    TABLE_III,
    TABLE_III_ARMS,
    claims,
    epochs_text,
    named,
)
from larq_seresnet.training.grid import (
    FEWEST_SEEDS,
    difference,
    epochs_to,
    mean_error,
    reduction,
)

TUNING_EPOCHS = 3
#: What a control arm tells: a question, an arm and the one it is compared with.
QUESTIONS = (
    ("What does the paper's 1-bit SE do to a network without SE?", "sigmoid", "no_se"),
    ("And with float32 weights in the SE alone?", "float32_se", "no_se"),
    ("And with scaled 1-bit weights and gates that start open (ours)?", "scaled", "no_se"),
    ("And in a float32 network?", "float32_sigmoid", "float32_no_se"),
    ("What does FMB do to the paper's SE, its gates never learning?", "sigmoid_fmb", "sigmoid"),
    ("And to tanh?", "tanh_fmb", "tanh"),
    ("What if its gates learn, straight through?", "sigmoid_fmb_through", "sigmoid_fmb"),
    ("And for tanh?", "tanh_fmb_through", "tanh_fmb"),
    ("What does FMB do to our SE, its gates learning?", "scaled_fmb_through", "scaled"),
    ("And its gates never learning?", "scaled_fmb_none", "scaled"),
    ("Our SE with FMB against no SE at all?", "scaled_fmb_through", "no_se"),
    ("1-bit activations: the paper's SE against none?", "w1a1_sigmoid", "w1a1_no_se"),
    ("1-bit activations: FMB on sigmoid?", "w1a1_sigmoid_fmb", "w1a1_sigmoid"),
    ("1-bit activations: FMB on tanh?", "w1a1_tanh_fmb", "w1a1_tanh"),
)
#: Test images by the SHA-256 of their bytes: copies that have the name of another set.
COPIES = {
    "fb3252af57295aed6514bb761cade5fc6681243fd98735e31e925534d8610016": "its JPEG-75 copy",
}


def report(grid, blocks):
    """report.md: verdicts first, then the paper's tables beside ours, then what explains them.

    Args:
        grid: A `Grid`.
        blocks: Arms by block, in order.
    """
    sections = (
        ("# The paper's claims, tested", f"{_verdicts(grid)}\n{_method(grid)}"),
        ("## Table I: error reduction after epoch 9 against sigmoid without FMB", _table_i(grid)),
        ("## Table II: error at epoch 6", _table_ii(grid)),
        ("## Table III: epochs to 30 % error", _table_iii(grid)),
        ("## What explains the differences", _explanations(grid)),
        ("## All arms", _all_arms(grid, blocks)),
        ("## What the SE modules do", _modules(grid, blocks)),
        ("## How the rate was chosen", _tuning(grid.logs.with_name("tuning"))),
    )
    return "\n".join(f"{title}\n\n{text}" for title, text in sections)


def _verdicts(grid):
    rows = [(each.claim, each.paper, each.ours, f"**{each.verdict}**") for each in claims(grid)]
    return files.table(("claim", "paper", "ours", "verdict"), rows)


def _method(grid):
    if not grid.runs:
        return "There are no logs yet.\n"
    settings = next(iter(grid.runs.values()))[0]
    dtypes = sorted({each.compute_dtype for each, _ in grid.runs.values()})
    (train_images,), (test_images,) = grid.facts("train_images"), grid.facts("test_images")
    known = [COPIES[each] for each in grid.facts("test_images_sha256") if each in COPIES]
    copy = "".join(f" ({each})" for each in known)
    return (
        f"Data set {settings.dataset}{copy}, {train_images:,} training and {test_images:,} test "
        f"images; test error after the epoch named. Recipe `{settings.recipe}`: Adam at the "
        f"constant rate {settings.learning_rate}, batches of {settings.batch_size}, random crops"
        f"{' and flips' * bool(settings.flip)}, layers computed in {' or '.join(dtypes)}; the rate "
        f"was chosen as told at the end. Brackets: 95 % paired bootstrap over n seeds; under "
        f"{FEWEST_SEEDS} seeds no interval and no verdict. With so few seeds such an interval is "
        f"narrow: take it as the spread of what was seen. A claim holds, or does not, where the "
        f"whole interval says so.\n"
    )


def _table_i(grid):
    epochs = np.arange(1, TABLE_I_EPOCH + 1)
    rows = [
        (
            named(arm),
            f"{claimed:.2%}",
            reduction(grid, arm, "sigmoid", TABLE_I_EPOCH).text(),
            reduction(grid, arm, "sigmoid", epochs).text(),
        )
        for arm, claimed in TABLE_I.items()
    ]
    header = ("1-bit", "paper", "ours", "ours, mean of epochs 1 to 9 (less noise)")
    return files.table(header, rows)


def _table_ii(grid):
    rows = [
        (named(arm), f"{claimed:.2%}", mean_error(grid, arm, TABLE_II_EPOCH).text())
        for arm, claimed in TABLE_II.items()
    ]
    return files.table(("", "paper", "ours"), rows)


def _table_iii(grid):
    rows = [(named(arm), TABLE_III.get(arm, "-"), epochs_text(grid, arm)) for arm in TABLE_III_ARMS]
    return files.table(("1-bit", "paper", "ours, a seed each"), rows)


def _explanations(grid):
    epochs = np.arange(1, 11)
    rows = [
        (
            question,
            f"{named(arm)} less {named(other)}",
            difference(grid, arm, other, 10).text("{:+.1%}"),
            difference(grid, arm, other, epochs).text("{:+.1%}"),
        )
        for question, arm, other in QUESTIONS
    ]
    return (
        "Points of error, seeds paired; below 0 the first of the two is better.\n\n"
        + files.table(("question", "arms", "after epoch 10", "mean of epochs 1 to 10"), rows)
    )


def _all_arms(grid, blocks):
    rows = [
        (block, named(arm), *(mean_error(grid, arm, epoch).text() for epoch in (6, 10, 25)))
        for block, arms in blocks.items()
        for arm in arms
    ]
    return files.table(("block", "arm", "epoch 6", "epoch 10", "epoch 25"), rows)


def _modules(grid, blocks):
    header = ("arm", "saturated", "open", "never open", "always open", "gradient at first", "last")
    arms = [arm for block in blocks.values() for arm in block if grid.modules(arm, GATES_EPOCH)]
    if not arms:
        return "No run has recorded its gates yet.\n"
    modules = grid.modules(arms[0], GATES_EPOCH)[0].values()
    return (
        f"After epoch {GATES_EPOCH}, means over the seeds: of the attention values M_c of 256 test "
        f"images those within 1 % of an end of their range, and the gates that are open; channels "
        f"that are never and always open, of {sum(module['channels'] for module in modules)} in "
        f"{len(modules)} modules; and the root mean square gradient in W0 and W1, divided by the "
        f"median of those in the residual convolutions, before the first epoch and after the "
        f"last.\n\n" + files.table(header, [_module_row(grid, arm) for arm in arms])
    )


def _module_row(grid, arm):
    modules = [list(each.values()) for each in grid.modules(arm, GATES_EPOCH)]

    def share(key):
        shares = [
            sum(module[key] * module["channels"] for module in each)
            / sum(module["channels"] for module in each)
            for each in modules
        ]
        return np.mean(shares)

    def count(key):
        return np.mean([sum(module[key] for module in each) for each in modules])

    return (
        named(arm),
        f"{share('saturated'):.1%}",
        f"{share('open'):.1%}",
        f"{count('never_open'):.0f}",
        f"{count('always_open'):.0f}",
        *(f"{_relative_gradient(grid, arm, when):.2g}" for when in ("initial", "final")),
    )


def _relative_gradient(grid, arm, when):
    ratios = []
    for measured in grid.measures[arm].values():
        found = measured["gradients"][when]
        attention = [value for name, value in found.items() if "_se/" in name]
        others = [value for name, value in found.items() if re.search(r"_[12]_conv", name)]
        ratios.append(np.mean(attention) / np.median(others))
    return np.mean(ratios)


def _tuning(logs):
    found: dict[float, dict[str, list[float]]] = {}
    for path in logs.glob("*_rate*.csv"):
        arm, rate = path.stem.split("_rate")
        errors = [row["test_error"] for row in callbacks.read_log(path)]
        found.setdefault(float(rate), {})[arm] = [np.mean(errors[-TUNING_EPOCHS:]), errors[-1]]
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
        f"{TUNING_EPOCHS} epochs of 5, in brackets that of the last one; one seed, the rate chosen "
        f"in bold.\n\n" + files.table(("rate", *map(named, arms)), rows)
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
