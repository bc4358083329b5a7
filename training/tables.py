"""The paper's tables and claims beside ours, from the logs of the grid: means, intervals, verdicts.

An interval is a paired bootstrap over seeds (95 %, percentile, `scipy.stats.bootstrap`). Fewer than
`FEWEST_SEEDS` seeds give no verdict.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats

from larq_seresnet.training import callbacks, config

FEWEST_SEEDS = 3
THRESHOLD = 0.30
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
#: Table I: error reduction after epoch 9 against sigmoid without FMB; all 1-bit.
TABLE_I = {"sigmoid_fmb": 0.4464, "tanh_fmb": 0.4072, "tanh": 0.1995}
#: Table II: error at epoch 6.
TABLE_II = {"sigmoid_fmb": 0.3627, "tanh_fmb": 0.4654, "float32_sigmoid": 0.5029}
#: Table III: epochs to 30 % error.
TABLE_III = {"sigmoid_fmb": 9, "sigmoid": 23}
TABLE_III_ARMS = ("sigmoid_fmb", "sigmoid", "no_se")
TABLE_I_EPOCH, TABLE_II_EPOCH, LAST_EPOCH = 9, 6, 100
TUNING_EPOCHS = 3
PAPER_AT_100 = 0.12
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
_METHOD = f"""\
CIFAR-10 (JPEG-75 copy), all images, test error after the epoch named; recipe `plain`: Adam at
the constant rate {config.RECIPES["plain"].learning_rate}, batches of 256, crop and flip;
the rate was chosen on held-out training images for the control and for the paper's baseline.
Brackets: 95 % paired bootstrap over n seeds; under {FEWEST_SEEDS} seeds no interval and no
verdict. With so few seeds such an interval is narrow: take it as the spread of what was seen.
"""
_MODULES = """\
After epoch 10, means over the seeds: of the attention values M_c of 256 test images those
within 0.01 of an end of their range, and the gates that are open; channels that are never and
always open, of 224 in six modules; and the root mean square gradient in W0 and W1, divided by
the median of those in the residual convolutions, before the first epoch and after the last.
"""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval (NaN where there are too few seeds) and the number of seeds."""

    value: float
    low: float
    high: float
    seeds: int

    def text(self, form="{:.1%}"):
        if not self.seeds:
            return "not run"
        if np.isnan(self.low):
            return f"{form.format(self.value)} (n = {self.seeds})"
        low, high = form.format(self.low), form.format(self.high)
        return f"{form.format(self.value)} [{low}, {high}] (n = {self.seeds})"


NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, its figure, ours, and what follows."""

    claim: str
    paper: str
    ours: str
    verdict: str


class Grid:
    """The logs of a grid: test errors by arm, seed and epoch, and what the SE modules did.

    Args:
        logs: Folder of what `measures.collect` wrote.
        arms: Names of the arms there may be.

    Raises:
        ValueError: If a log is of no such arm, was cut off in the middle of a row, or skips epochs.
    """

    def __init__(self, logs, arms):
        self.errors = {arm: {} for arm in arms}
        self.measures = {arm: {} for arm in arms}
        self.logs = pathlib.Path(logs)
        for path in sorted(self.logs.glob("*.csv")):
            match = re.fullmatch(r"(\w+)_seed(\d+)", path.stem)
            if not match or match[1] not in self.errors:
                raise ValueError(f"{path} is no log of this grid: its arms are {', '.join(arms)}.")
            arm, seed = match[1], int(match[2])
            rows = callbacks.read_log(path)
            if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
                raise ValueError(f"{path} must hold epochs 1, 2, ... without a gap.")
            self.errors[arm][seed] = np.array([row["test_error"] for row in rows])
            found = path.with_suffix(".measures.json")
            if found.exists():
                self.measures[arm][seed] = json.loads(found.read_text())

    def at(self, epoch, *arms):
        """Errors after an epoch, (arms, seeds), of the seeds that have reached it in all arms."""
        reached = [
            {seed: each[epoch - 1] for seed, each in self.errors[arm].items() if len(each) >= epoch}
            for arm in arms
        ]
        seeds = sorted(set(reached[0]).intersection(*reached[1:]))
        return np.array([[each[seed] for seed in seeds] for each in reached])


def estimate(statistic: Callable, samples) -> Estimate:
    """A statistic of paired samples, (arms, seeds), with its bootstrap interval."""
    samples = np.atleast_2d(samples)
    seeds = samples.shape[1]
    if not seeds:
        return NOTHING
    value = float(statistic(*samples))
    if seeds < FEWEST_SEEDS:
        return Estimate(value, np.nan, np.nan, seeds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            tuple(samples),
            statistic,
            paired=True,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), seeds)


def mean_error(grid, arm, epoch):
    """Mean over the seeds of an arm's error after an epoch."""
    return estimate(np.mean, grid.at(epoch, arm))


def reduction(grid, arm, base, epoch):
    """By which part of itself the mean error of `base` falls with `arm`, seeds paired."""
    return estimate(lambda a, b: 1 - np.mean(a) / np.mean(b), grid.at(epoch, arm, base))


def difference(grid, arm, other, epoch):
    """How much greater the error of `arm` is than that of `other`, seeds paired."""
    return estimate(lambda a, b: np.mean(a) - np.mean(b), grid.at(epoch, arm, other))


def epochs_to(errors, threshold=THRESHOLD):
    """The first epoch at or under the threshold, and the first after which it stays there.

    Returns:
        Two integers, None for what the run did not reach.
    """
    under = errors <= threshold
    first = int(np.argmax(under)) + 1 if under.any() else None
    over = np.flatnonzero(~under)
    stays = int(over[-1]) + 2 if len(over) else 1
    return first, stays if stays <= len(errors) else None


def censored_epochs(grid, arm):
    """Epochs to 30 % error of all seeds; runs that ended before count as censored there."""
    reached, censored = [], []
    for errors in grid.errors[arm].values():
        first, _ = epochs_to(errors)
        reached.append(first) if first else censored.append(len(errors))
    return stats.CensoredData(uncensored=reached, right=censored)


def median_epochs(data):
    """The median of censored epochs by Kaplan and Meier; infinite if half were never seen."""
    survival = stats.ecdf(data).sf
    under = survival.probabilities <= 0.5
    return float(survival.quantiles[np.argmax(under)]) if under.any() else np.inf


def order(estimates):
    """Verdict on differences that should all be above 0."""
    if any(np.isnan(each.low) for each in estimates):
        return OPEN
    if all(each.low > 0 for each in estimates):
        return HOLDS
    return FAILS if any(each.high < 0 for each in estimates) else OPEN


def at_least(found, claimed):
    """Verdict on a figure that should be at least what the paper says."""
    if np.isnan(found.low):
        return OPEN
    return HOLDS if found.high >= claimed else FAILS


def claims(grid):
    """Every claim of the paper with ours beside it: a list of `Claim`."""
    found = []
    reductions = {arm: reduction(grid, arm, "sigmoid", TABLE_I_EPOCH) for arm in TABLE_I}
    for arm, claimed in TABLE_I.items():
        found.append(
            Claim(
                f"Table I: {_named(arm)} lowers the error of 1-bit sigmoid after epoch "
                f"{TABLE_I_EPOCH} by this part of it",
                f"{claimed:.1%}",
                reductions[arm].text(),
                at_least(reductions[arm], claimed),
            )
        )
    steps = [
        difference(grid, worse, better, TABLE_I_EPOCH)
        for better, worse in zip(list(TABLE_I), [*list(TABLE_I)[1:], "sigmoid"], strict=True)
    ]
    found.append(
        _order_claim("Table I: sigmoid + FMB, tanh + FMB, tanh, sigmoid, best first", steps)
    )
    arms = list(TABLE_II)
    steps = [
        difference(grid, worse, better, TABLE_II_EPOCH)
        for better, worse in itertools.pairwise(arms)
    ]
    found.append(
        _order_claim("Table II: sigmoid + FMB, tanh + FMB, float32 sigmoid, best first", steps)
    )
    found.append(_fewer_epochs(grid))
    found.append(
        _order_claim(
            "the order of sigmoid and tanh reverses with FMB: tanh is better without, sigmoid with",
            [
                difference(grid, "sigmoid", "tanh", TABLE_I_EPOCH),
                difference(grid, "tanh_fmb", "sigmoid_fmb", TABLE_I_EPOCH),
            ],
        )
    )
    early = [difference(grid, "float32_sigmoid", "sigmoid_fmb", TABLE_II_EPOCH)]
    found.append(_order_claim("the 1-bit model with FMB beats float32 early, at epoch 6", early))
    found.append(_all_alike_at_the_end(grid))
    found.append(_saturated(grid))
    found.append(_prunable(grid))
    return found


def _order_claim(claim, steps):
    text = ", ".join(each.text("{:+.1%}") for each in steps)
    return Claim(claim, "each step above 0", text, order(steps))


def _fewer_epochs(grid):
    claim = "Table III: sigmoid + FMB needs this part fewer epochs to 30 % error than sigmoid"
    claimed = 1 - TABLE_III["sigmoid_fmb"] / TABLE_III["sigmoid"]
    data = {arm: censored_epochs(grid, arm) for arm in TABLE_III}
    seeds = [each.num_censored() + len(each._uncensored) for each in data.values()]
    if min(seeds) == 0:
        return Claim(claim, f"{claimed:.0%}", "not run", OPEN)
    medians = {arm: median_epochs(each) for arm, each in data.items()}
    text = ", ".join(f"{_named(arm)}: {epochs_text(grid, arm)}" for arm in TABLE_III)
    if min(seeds) < FEWEST_SEEDS or np.isinf(medians["sigmoid_fmb"]):
        unreached = np.isinf(medians["sigmoid_fmb"]) and np.isfinite(medians["sigmoid"])
        verdict = FAILS if unreached and min(seeds) >= FEWEST_SEEDS else OPEN
        return Claim(claim, f"{claimed:.0%}", text, verdict)
    longest = max(len(errors) for errors in grid.errors["sigmoid"].values())
    base = min(medians["sigmoid"], longest)  # of a run that never got there: at least its length
    fewer = 1 - medians["sigmoid_fmb"] / base
    sign = ">= " if np.isinf(medians["sigmoid"]) else ""
    verdict = HOLDS if fewer >= claimed else OPEN if sign else FAILS
    return Claim(claim, f"{claimed:.0%}", f"{sign}{fewer:.0%} ({text})", verdict)


def _all_alike_at_the_end(grid):
    ends = [mean_error(grid, arm, LAST_EPOCH) for arm in ("sigmoid", "tanh", *list(TABLE_I)[:2])]
    run = [each for each in ends if each.seeds]
    text = ", ".join(each.text() for each in run) or "not run"
    return Claim(
        "about 12 % error after 100 epochs for all four", f"{PAPER_AT_100:.0%}", text, OPEN
    )


def _saturated(grid):
    found = _module_share(grid, "sigmoid", 10, lambda module: module["saturated"])
    verdict = OPEN if np.isnan(found.low) else HOLDS if found.low > 0.9 else FAILS
    return Claim(
        "gates are almost all 0 or 1 after epoch 10 (first module, sigmoid: 90 % within 0.01)",
        "almost all",
        found.text(),
        verdict,
    )


def _prunable(grid):
    samples = [
        sum(module["never_open"] for module in modules.values())
        / sum(module["channels"] for module in modules.values())
        for measured in grid.measures["sigmoid_fmb"].values()
        if (modules := measured["gates"].get("10"))
    ]
    found = estimate(np.mean, [samples])
    return Claim(
        "half the channels can be pruned: never open for any of 256 test images, sigmoid + FMB",
        "50%",
        found.text(),
        at_least(found, 0.5),
    )


def _module_share(grid, arm, epoch, share, module="stage1_block1_se"):
    samples = [
        share(measured["gates"][str(epoch)][module])
        for measured in grid.measures[arm].values()
        if str(epoch) in measured["gates"]
    ]
    return estimate(np.mean, [samples])


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


def _named(arm):
    return arm.replace("_fmb", " + FMB").replace("_", " ")


def report(grid, blocks):
    """report.md: verdicts first, then the paper's tables beside ours, then what explains them.

    Args:
        grid: A `Grid`.
        blocks: Arms by block, in order.
    """
    sections = (
        ("# The paper's claims, tested", _verdicts(grid)),
        ("## Table I: error reduction after epoch 9 against sigmoid without FMB", _table_i(grid)),
        ("## Table II: error at epoch 6", _table_ii(grid)),
        ("## Table III: epochs to 30 % error", _table_iii(grid)),
        ("## What explains the differences", _explanations(grid)),
        ("## All arms", _all_arms(grid, blocks)),
        ("## What the SE modules do", _module_table(grid, blocks)),
        ("## How the rate was chosen", _tuning(grid.logs.with_name("tuning"))),
    )
    return "\n".join(f"{title}\n\n{text}" for title, text in sections)


def _verdicts(grid):
    rows = [(each.claim, each.paper, each.ours, f"**{each.verdict}**") for each in claims(grid)]
    return _markdown(("claim", "paper", "ours", "verdict"), rows) + f"\n{_METHOD}"


def _table_i(grid):
    rows = [
        (_named(arm), f"{claimed:.2%}", reduction(grid, arm, "sigmoid", TABLE_I_EPOCH).text())
        for arm, claimed in TABLE_I.items()
    ]
    return _markdown(("1-bit", "paper", "ours"), rows)


def _table_ii(grid):
    rows = [
        (_named(arm), f"{claimed:.2%}", mean_error(grid, arm, TABLE_II_EPOCH).text())
        for arm, claimed in TABLE_II.items()
    ]
    return _markdown(("", "paper", "ours"), rows)


def _table_iii(grid):
    rows = [
        (_named(arm), TABLE_III.get(arm, "-"), epochs_text(grid, arm)) for arm in TABLE_III_ARMS
    ]
    return _markdown(("1-bit", "paper", "ours, a seed each"), rows)


def _explanations(grid):
    rows = [
        (
            question,
            f"{_named(arm)} less {_named(other)}",
            difference(grid, arm, other, 10).text("{:+.1%}"),
        )
        for question, arm, other in QUESTIONS
    ]
    return (
        "Points of error after epoch 10, seeds paired; below 0 the first of the two is better.\n\n"
        + _markdown(("question", "arms", "difference"), rows)
    )


def _all_arms(grid, blocks):
    rows = [
        (block, _named(arm), *(mean_error(grid, arm, epoch).text() for epoch in (6, 10, 25)))
        for block, arms in blocks.items()
        for arm in arms
    ]
    return _markdown(("block", "arm", "epoch 6", "epoch 10", "epoch 25"), rows)


def _module_table(grid, blocks):
    header = (
        *("arm", "saturated", "open", "never open", "always open"),
        *("gradient at first", "at last"),
    )
    rows = [row for arms in blocks.values() for arm in arms if (row := _module_row(grid, arm))]
    return f"{_MODULES}\n" + _markdown(header, rows)


def _tuning(logs):
    found: dict[str, dict[str, float]] = {}
    for path in sorted(logs.glob("*_rate*.csv")):
        arm, rate = path.stem.split("_rate")
        last = [row["test_error"] for row in callbacks.read_log(path)][-TUNING_EPOCHS:]
        found.setdefault(rate, {})[arm] = float(np.mean(last))
    arms = sorted({arm for errors in found.values() for arm in errors})
    rows = [
        (rate, *(f"{errors[arm]:.1%}" if arm in errors else "not run" for arm in arms))
        for rate, errors in sorted(found.items(), key=lambda item: float(item[0]))
    ]
    return (
        f"Error on 5,000 held-out training images, mean of the last {TUNING_EPOCHS} of 5 epochs, "
        "one seed (`reproduce.py --profile tuning`).\n\n"
        + _markdown(("rate", *map(_named, arms)), rows)
    )


def _module_row(grid, arm):
    measured = [each for each in grid.measures[arm].values() if "10" in each["gates"]]
    if not measured:
        return None
    modules = [list(each["gates"]["10"].values()) for each in measured]
    channels = [[module["channels"] for module in each] for each in modules]

    def share(key):
        return np.mean(
            [
                np.average([module[key] for module in each], weights=counts)
                for each, counts in zip(modules, channels, strict=True)
            ]
        )

    def count(key):
        return np.mean([sum(module[key] for module in each) for each in modules])

    def gradient(when):
        ratios = []
        for each in measured:
            found = each["gradients"][when]
            attention = [value for name, value in found.items() if "_se/" in name]
            others = [value for name, value in found.items() if re.search(r"_[12]_conv", name)]
            ratios.append(np.mean(attention) / np.median(others))
        return np.mean(ratios)

    return (
        _named(arm),
        f"{share('saturated'):.1%}",
        f"{share('open'):.1%}",
        f"{count('never_open'):.0f}",
        f"{count('always_open'):.0f}",
        f"{gradient('initial'):.2g}",
        f"{gradient('final'):.2g}",
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


def _markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
