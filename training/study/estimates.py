"""A figure over seeds, how sure it is, and both as text.

Every figure has two 95 % intervals over paired seeds: a percentile bootstrap (`scipy.stats`), which
of a few seeds is too narrow (of three normal values it covers the mean 75 times in 100, of five
85), and Student's t of the figure as each seed alone gives it, by which claims are judged. Two
seeds give no bootstrap, and a t that is wide; one gives neither. Seeds that agree give no t: that
is chance, as of whole numbers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import stats

#: Errors are shares of thousands of images, so less than this is the rounding of floats.
ROUNDING = 1e-9
#: The fewest seeds for a bootstrap, for a band in figures, and for a spread to borrow.
FEWEST_SEEDS = 3


def percent(share):
    """A share as text."""
    return f"{share:.1%}"


def exact_percent(share):
    """Likewise to hundredths of a percent."""
    return f"{share:.2%}"


def points(difference):
    """A difference of two shares as text."""
    return f"{100 * difference:+.1f}"


def hundredths(difference):
    """Likewise to hundredths of a point: one tenth may be all that lies between two arms."""
    return f"{100 * difference:+.2f}"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure over seeds, and how sure it is.

    Attributes:
        value: The figure.
        bootstrap: Its 95 % interval by paired bootstrap; NaN, NaN where there are too few seeds.
        student: Likewise by Student's t.
        seeds: How many.
        apart: How the runs of a seed differ in more than their arms, and of how many seeds.
        lacking: What is said where there are no seeds.
    """

    value: float
    bootstrap: tuple[float, float]
    student: tuple[float, float]
    seeds: int
    apart: tuple[str, ...] = ()
    lacking: str = "not run"

    def brief(self, form=percent):
        """The figure alone."""
        return form(self.value) if self.seeds else self.lacking

    def text(self, form=percent):
        """Such as "3.1% [2.0%, 4.2%], t [0.9%, 5.3%] (n = 3)"."""
        if not self.seeds:
            return self.lacking
        return self.beside(form(self.value), form)

    def beside(self, figure, form=percent):
        """The figure in other words, with both intervals and the number of seeds."""
        found = ", ".join(
            f"{name}[{form(low)}, {form(high)}]"
            for name, (low, high) in (("", self.bootstrap), ("t ", self.student))
            if not np.isnan(low)
        )
        seeds = ", ".join((f"n = {self.seeds}", *self.apart))
        return " ".join(filter(None, (figure, found, f"({seeds})")))


UNKNOWN = (np.nan, np.nan)
NOT_RUN = Estimate(np.nan, UNKNOWN, UNKNOWN, 0)
NOT_RUN_YET = NOT_RUN.lacking


def estimate(statistic: Callable, samples) -> Estimate:
    """A statistic of paired samples, (arms, seeds), with its intervals.

    Args:
        statistic: Of the arms, each an array, along `axis`, the last one unless it is given.
        samples: Array-like.
    """
    samples = np.atleast_2d(samples)
    seeds = samples.shape[1]
    if not seeds:
        return NOT_RUN
    bootstrap = by_t = UNKNOWN
    if seeds >= FEWEST_SEEDS:
        interval = stats.bootstrap(
            tuple(samples),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        bootstrap = float(interval.low), float(interval.high)
    by_seed = [statistic(*sample) for sample in samples.T[:, :, np.newaxis]]
    if seeds > 1 and np.ptp(by_seed) > ROUNDING:
        low, high = student(by_seed)
        by_t = float(low), float(high)
    return Estimate(float(statistic(*samples)), bootstrap, by_t, seeds)


def student(values):
    """The 95 % interval of a mean over the first axis, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return np.mean(values, axis=0) - half, np.mean(values, axis=0) + half


def each_seed(errors):
    """The mean of some seeds' errors, and in brackets each of them."""
    if not errors.size:
        return "-"
    return f"{errors.mean():.2%} ({', '.join(f'{error:.1%}' for error in errors)})"
