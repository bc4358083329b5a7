"""The logs of a grid of runs, and what its arms are to each other: errors, epochs to a threshold.

Arms are compared seed by seed, where both computed in the same dtype. Pairs share the order of
their images and, where shapes are the same, their first weights. Beside a difference is told of how
many pairs one was trained on another processor, so that rounding is part of it, or by another
training of the teacher.
"""

import collections
import dataclasses
import json
import pathlib
import re

import numpy as np
from scipy import stats

from larq_seresnet.training import callbacks, config
from larq_seresnet.training.study.estimates import FEWEST_SEEDS, estimate

THRESHOLD = 0.30
#: What an arm decides, said or not.
DECIDED = [
    name
    for name in (*config.FLAG_GROUPS["model"], "relaxed_inputs")
    if name not in ("filters", "input_shape", "weights")
]
#: What runs say of their data: the same for all of a grid.
DATA_FACTS = ("train_images", "test_images", "train_images_sha256", "test_images_sha256")
#: Stands for the epoch at which a run reached the threshold, where it ended before it did.
NEVER = 10**6
#: Instead of a difference, or of some seeds of one.
NOT_PAIRED = "not compared: computed in other dtypes"


class Grid:
    """The logs of a grid: test errors by arm, seed and epoch, and what the SE modules did.

    Args:
        logs: Folder of what `measures.collect` wrote.
        arms: The arms there may be: by name, the arguments of `Config` that make each of them.
        runs: Of a `Run` the seed of which decides more arguments, these, by its name.

    Attributes:
        errors: By arm and seed, the test error after each epoch.
        measures: By arm and seed, what `measures.measure` returned.
        runs: By the log's path, its `Config` and the facts beside it.

    Raises:
        FileNotFoundError: If a log has no config beside it.
        ValueError: If a log is of no such arm or of another data set or recipe than the first one,
            was cut off in the middle of a row, or skips epochs.
    """

    def __init__(self, logs, arms, runs=None):
        self.errors = {arm: {} for arm in arms}
        self.measures = {arm: {} for arm in arms}
        self.runs = {}
        self.logs = pathlib.Path(logs)
        varied = {*DECIDED, *(name for arguments in arms.values() for name in arguments)}
        for path in sorted(self.logs.glob("*.csv")):
            match = re.fullmatch(r"(\w+)_seed(\d+)", path.stem)
            if not match or match[1] not in self.errors:
                raise ValueError(f"{path} is no log of this grid: its arms are {', '.join(arms)}.")
            arm, seed = match[1], int(match[2])
            self.errors[arm][seed] = _errors(path)
            settings, facts = config.read(path.with_suffix(".json"))
            first = next(iter(self.runs.values()), (settings,))[0]
            planned = vars(config.Config(**(runs or {}).get(path.stem, arms[arm])))
            own = {name: planned[name] for name in varied}
            wanted = dataclasses.replace(first, **own, seed=seed)
            config.check_same(path.with_suffix(".json"), settings, wanted)
            self.runs[path] = settings, facts
            found = path.with_suffix(".measures.json")
            if found.exists():
                self.measures[arm][seed] = json.loads(found.read_text())
        self._check_one_data_set()

    def _check_one_data_set(self):
        for fact in DATA_FACTS:
            if len(self.facts(fact)) > 1:
                raise ValueError(
                    f"{self.logs} must hold runs on one data set, received logs with `{fact}` "
                    f"{' and '.join(map(str, self.facts(fact)))}."
                )

    def facts(self, name):
        """The values of a fact that the configs of the runs record, each once."""
        return sorted({facts[name] for _, facts in self.runs.values() if name in facts})

    def provenance(self):
        """Which code the runs are of and what layers computed in, as the end of a sentence.

        What was resumed is of more than one; how often another processor did so is told, too.
        """
        dtypes = collections.Counter(settings.compute_dtype for settings, _ in self.runs.values())
        counts = " and ".join(f"{dtype} ({count})" for dtype, count in sorted(dtypes.items()))
        apart = ", whose differences are not taken, though means are" * (len(dtypes) > 1)
        teachers = len(self.facts("teacher_sha256"))
        taught = f" They were taught by {teachers} trainings of the teacher." * (teachers > 1)
        parts = [_parts(facts, len(_errors(path))) for path, (_, facts) in self.runs.items()]
        commits = {str(part["commit"]) for each in parts for part in each if "commit" in part}
        moved = sum(len(_processors(each)) > 1 for each in parts)
        elsewhere = f" Begun on one processor and finished on another: {moved} of {len(parts)}."
        return (
            f"runs with the code of {', '.join(sorted(commits))}, layers computed in {counts}"
            f"{apart}.{taught}" + elsewhere * bool(moved)
        )

    def data(self):
        """The config of a run, and the facts on the data, which are the same for all."""
        known = {name: found[0] for name in DATA_FACTS if (found := self.facts(name))}
        return next(iter(self.runs.values()))[0], known

    def of(self, arm, seed):
        """The `Config` of a run, and the facts beside it."""
        return self.runs[self.logs / f"{arm}_seed{seed}.csv"]

    def reached(self, *arms, epochs=1):
        """The seeds that have reached an epoch in all arms."""
        each = (
            {seed for seed, errors in self.errors[arm].items() if len(errors) >= epochs}
            for arm in arms
        )
        return sorted(set.intersection(*each))

    def paired(self, *arms, epochs=1):
        """Those of which all arms computed their layers in one dtype."""
        return [
            seed
            for seed in self.reached(*arms, epochs=epochs)
            if len({self.of(arm, seed)[0].compute_dtype for arm in arms}) == 1
        ]

    def apart(self, *arms, epochs=1, until=None):
        """In words, how many of these were trained on different processors, or taught apart.

        Args:
            epochs: As `paired` takes it.
            until: Up to which epoch it matters who trained; None for `epochs`.
        """
        seeds = self.paired(*arms, epochs=epochs)

        def processors(arm, seed):
            last = min(until or epochs, len(self.errors[arm][seed]))
            return _processors(_parts(self.of(arm, seed)[1], last))

        def teacher(arm, seed):
            return self.of(arm, seed)[1].get("teacher_sha256")

        told = []
        for fact, words in (
            (processors, "on different processors"),
            (teacher, "by different teachers"),
        ):
            count = sum(len({fact(arm, seed) for arm in arms}) > 1 for seed in seeds)
            told += [f"{count} {words}"] * bool(count)
        return tuple(told)

    def at(self, epochs, *arms):
        """Errors after an epoch, (arms, seeds), of the seeds that pair at it.

        Args:
            epochs: One, counted from 1, or several: then the mean of their errors.
            arms: Names.
        """
        chosen = np.atleast_1d(epochs)
        seeds = self.paired(*arms, epochs=chosen.max())
        return np.array(
            [[self.errors[arm][seed][chosen - 1].mean() for seed in seeds] for arm in arms]
        )

    def modules(self, arm, epoch):
        """What the SE modules did after an epoch: for each seed that has it, a dict by module."""
        found = (measured["gates"].get(str(epoch)) for measured in self.measures[arm].values())
        return [modules for modules in found if modules]


def _parts(facts, epochs):
    """The facts of each process that ended one of the first so many epochs of a run."""
    parts = [facts, *facts.get("resumed", [])]
    begun = [0, *(part["after_epoch"] for part in parts[1:]), epochs]
    ends = zip(parts, begun[:-1], begun[1:], strict=True)
    return [part for part, first, last in ends if first < min(last, epochs)]


def _processors(parts):
    """Those that trained the parts of a run, by whatever program."""
    return frozenset(str(part.get("processor")).partition(", training/")[0] for part in parts)


def _errors(path):
    rows = callbacks.read_log(path)
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError(f"{path} must hold epochs 1, 2, ... without a gap.")
    return np.array([row["test_error"] for row in rows])


def mean_error(grid, arm, epochs):
    """Mean over the seeds of an arm's error after an epoch; `epochs` as in `Grid.at`."""
    return estimate(np.mean, grid.at(epochs, arm))


def error_as_spread(grid, arm, epoch):
    """`mean_error`; for a long run or two of an arm whose other runs are short.

    Too few seeds for a bootstrap take the spread that more had at the last epoch that they reached,
    as if it had not changed since.
    """
    found = mean_error(grid, arm, epoch)
    before = (
        each for each in range(epoch, 0, -1) if len(grid.paired(arm, epochs=each)) >= FEWEST_SEEDS
    )
    reached = next(before, None)
    if not 0 < found.seeds < FEWEST_SEEDS or reached is None:
        return found
    errors = grid.at(reached, arm)[0]
    half = stats.t.ppf(0.975, len(errors) - 1) * np.std(errors, ddof=1) / found.seeds**0.5
    return dataclasses.replace(found, student=(found.value - half, found.value + half))


def reduction(grid, arm, base, epochs):
    """By which part of itself the mean error of `base` falls with `arm`, seeds paired."""
    return _compared(
        lambda a, b, axis=-1: 1 - np.mean(a, axis) / np.mean(b, axis), grid, arm, base, epochs
    )


def difference(grid, arm, other, epochs):
    """How much greater the error of `arm` is than that of `other`, seeds paired."""
    return _compared(
        lambda a, b, axis=-1: np.mean(a, axis) - np.mean(b, axis), grid, arm, other, epochs
    )


def _compared(statistic, grid, arm, other, epochs):
    """A statistic of two arms' errors after epochs as `Grid.at` takes them, seeds paired."""
    last = np.max(epochs)
    found = estimate(statistic, grid.at(epochs, arm, other))
    left_out = len(grid.reached(arm, other, epochs=last)) - found.seeds
    if left_out and not found.seeds:
        return dataclasses.replace(found, lacking=NOT_PAIRED)
    told = (f"{left_out} {NOT_PAIRED}",) * bool(left_out)
    return dataclasses.replace(found, apart=grid.apart(arm, other, epochs=last) + told)


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
    seeds = grid.paired(arm, base)
    bounds = {
        each: np.array([_bounds(grid.errors[each][seed]) for seed in seeds]).reshape(-1, 2).T
        for each in (arm, base)
    }

    def fewer(own, others, axis=-1):
        return 1 - np.median(own, axis) / np.median(others, axis)

    (soon, late), (base_soon, base_late) = bounds[arm], bounds[base]
    least, most = estimate(fewer, [late, base_soon]), estimate(fewer, [soon, base_late])
    errors = [grid.errors[each][seed] for each in (arm, base) for seed in seeds]
    arrived = (epochs_to(each)[0] or len(each) for each in errors)
    apart = grid.apart(arm, base, until=max(arrived, default=None))
    return dataclasses.replace(least, apart=apart), dataclasses.replace(most, apart=apart)


def _bounds(errors):
    first, _ = epochs_to(errors)
    return (first, first) if first else (len(errors) + 1, NEVER)
