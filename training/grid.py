"""The logs of a grid of runs, and statistics on them: means, intervals, epochs to a threshold.

An interval is a paired bootstrap over seeds (95 %, percentile, `scipy.stats.bootstrap`). Fewer than
`FEWEST_SEEDS` seeds give none.
"""

import dataclasses
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
#: Where runs of one arm may differ: left to the machine, or in length alone.
FREE = (*config.LEFT_TO_THE_MACHINE, "epochs")
#: As many as never, where a run ended before it reached the threshold.
NEVER = 10**6


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


class Grid:
    """The logs of a grid: test errors by arm, seed and epoch, and what the SE modules did.

    Args:
        logs: Folder of what `measures.collect` wrote.
        arms: The arms there may be: by name, the arguments of `Config` that make each of them.

    Attributes:
        errors: By arm and seed, the test error after each epoch.
        measures: By arm and seed, what `measures.measure` returned.
        runs: By the log's path, its `Config` and the facts beside it.

    Raises:
        FileNotFoundError: If a log has no config beside it.
        ValueError: If a log is of no such arm or of another data set or recipe than the first one,
            was cut off in the middle of a row, or skips epochs.
    """

    def __init__(self, logs, arms):
        self.errors = {arm: {} for arm in arms}
        self.measures = {arm: {} for arm in arms}
        self.runs = {}
        self.logs = pathlib.Path(logs)
        of_an_arm = {name for arguments in arms.values() for name in arguments}
        for path in sorted(self.logs.glob("*.csv")):
            match = re.fullmatch(r"(\w+)_seed(\d+)", path.stem)
            if not match or match[1] not in self.errors:
                raise ValueError(f"{path} is no log of this grid: its arms are {', '.join(arms)}.")
            arm, seed = match[1], int(match[2])
            self.errors[arm][seed] = _errors(path)
            settings, facts = config.read(path.with_suffix(".json"))
            first = next(iter(self.runs.values()), (settings,))[0]
            own = {name: getattr(settings, name) for name in of_an_arm}
            wanted = dataclasses.replace(first, **{**own, **arms[arm], "seed": seed})
            check_same(path.with_suffix(".json"), settings, wanted)
            self.runs[path] = settings, facts
            found = path.with_suffix(".measures.json")
            if found.exists():
                self.measures[arm][seed] = json.loads(found.read_text())
        self._check_one_data_set()

    def _check_one_data_set(self):
        for fact in ("train_images", "test_images", "test_images_sha256"):
            if len(self.facts(fact)) > 1:
                raise ValueError(
                    f"{self.logs} must hold runs on one data set, received logs with `{fact}` "
                    f"{' and '.join(map(str, self.facts(fact)))}."
                )

    def facts(self, name):
        """The values of a fact that the configs of the runs record, each once."""
        return sorted({facts[name] for _, facts in self.runs.values() if name in facts})

    def at(self, epochs, *arms):
        """Errors after an epoch, (arms, seeds), of the seeds that have reached it in all arms.

        Args:
            epochs: One, counted from 1, or several: then the mean of their errors.
            arms: Names.
        """
        chosen = np.atleast_1d(epochs)
        reached = [
            {
                seed: errors[chosen - 1].mean()
                for seed, errors in self.errors[arm].items()
                if len(errors) >= chosen.max()
            }
            for arm in arms
        ]
        seeds = sorted(set(reached[0]).intersection(*reached[1:]))
        return np.array([[each[seed] for seed in seeds] for each in reached])

    def modules(self, arm, epoch):
        """What the SE modules did after an epoch: for each seed that has it, a dict by module."""
        found = (measured["gates"].get(str(epoch)) for measured in self.measures[arm].values())
        return [modules for modules in found if modules]


def _errors(path):
    rows = callbacks.read_log(path)
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError(f"{path} must hold epochs 1, 2, ... without a gap.")
    return np.array([row["test_error"] for row in rows])


def check_same(path, kept, wanted):
    """Checks that the config of a run is what it should be, but for what is `FREE`.

    Raises:
        ValueError: If it is not; names `path` and the field.
    """
    for field in dataclasses.fields(kept):
        here, there = getattr(wanted, field.name), getattr(kept, field.name)
        left_to_the_data = field.name == "flip" and here is None
        if field.name not in FREE and not left_to_the_data and here != there:
            raise ValueError(
                f"{path} is of another grid: `{field.name}` is {there!r} there, {here!r} here."
            )


def estimate(statistic: Callable, samples) -> Estimate:
    """A statistic of paired samples, (arms, seeds), with its bootstrap interval."""
    samples = np.atleast_2d(samples)
    seeds = samples.shape[1]
    if not seeds:
        return Estimate(np.nan, np.nan, np.nan, 0)
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


def mean_error(grid, arm, epochs):
    """Mean over the seeds of an arm's error after an epoch; `epochs` as in `Grid.at`."""
    return estimate(np.mean, grid.at(epochs, arm))


def reduction(grid, arm, base, epochs):
    """By which part of itself the mean error of `base` falls with `arm`, seeds paired."""
    return estimate(lambda a, b: 1 - np.mean(a) / np.mean(b), grid.at(epochs, arm, base))


def difference(grid, arm, other, epochs):
    """How much greater the error of `arm` is than that of `other`, seeds paired."""
    return estimate(lambda a, b: np.mean(a) - np.mean(b), grid.at(epochs, arm, other))


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


def fewer_epochs(grid, arm, base):
    """By which part the median number of epochs to the threshold falls from `base` to `arm`.

    A run that ended before it got there is censored: it might have got there in its next epoch, or
    never. Both are reckoned.

    Returns:
        Two `Estimate`, seeds paired: at least, and at most so much.
    """
    seeds = sorted(set(grid.errors[arm]) & set(grid.errors[base]))
    bounds = {
        each: np.array([_bounds(grid.errors[each][seed]) for seed in seeds]).reshape(-1, 2).T
        for each in (arm, base)
    }

    def fewer(own, others):
        return 1 - np.median(own) / np.median(others)

    (soon, late), (base_soon, base_late) = bounds[arm], bounds[base]
    return estimate(fewer, [late, base_soon]), estimate(fewer, [soon, base_late])


def _bounds(errors):
    first, _ = epochs_to(errors)
    return (first, first) if first else (len(errors) + 1, NEVER)
