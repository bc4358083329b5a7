"""What follows from a figure over seeds: one rule for claims of the paper, goals, and arms."""

import dataclasses
import math

from larq_seresnet.training.study.estimates import ROUNDING, Estimate

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a figure should lie.

    Attributes:
        low, high: Between them, both included.
        by_interval: Whether the whole interval by Student's t decides, not the figure alone.
        seeds: How many it takes to tell.
    """

    low: float = -math.inf
    high: float = math.inf
    by_interval: bool = True
    seeds: int = 1

    def judge(self, found: Estimate) -> str:
        """One of `HOLDS`, `FAILS` and `OPEN`: the last where a bound is NaN that would decide."""
        low, high = found.student if self.by_interval else (found.value, found.value)
        if found.seeds < self.seeds:
            return OPEN
        if self.low - ROUNDING <= low and high <= self.high + ROUNDING:
            return HOLDS
        apart = high < self.low - ROUNDING or self.high + ROUNDING < low
        return FAILS if apart else OPEN


def all_of(parts):
    """The verdict on a claim whose parts must all hold: one that does not is enough."""
    told = set(parts)
    return next((each for each in (FAILS, OPEN) if each in told), HOLDS)


def of_goal(verdict, found):
    """What a report says of a goal, by the verdict on the `Estimate` of what was found."""
    if not found.seeds:
        return found.lacking
    return {HOLDS: "**reached**", FAILS: "**missed**"}.get(verdict, verdict)
