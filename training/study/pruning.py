"""Does it pay? Networks whose gates closed channels, and others of as many bytes."""

import dataclasses
import json
from typing import Any

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import config, data
from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study import document, figures, frontier, modules
from larq_seresnet.training.study.estimates import (
    NOT_RUN,
    NOT_RUN_YET,
    each_seed,
    hundredths,
    percent,
)
from larq_seresnet.training.study.grid import Grid, difference
from larq_seresnet.training.study.measures import mean_count, mean_share
from larq_seresnet.training.study.runs import arms_of, budget_arm, budget_errors, budget_run
from larq_seresnet.training.study.verdicts import FAILS, HOLDS, OPEN, Range, all_of, of_goal

BUDGET = 25
#: How many the arms are compared with that are trained more than once.
SEEDS = 3
_ENDS: dict[str, Any] = {"ends": "int8", "reduction_ratio": 4}
_GATED = {"gate_at": "middle"}
_BY_HAND = {"attention": None, "ends": "int8"}
_WIDE = {"filters": (48, 72, 72)}
_HE = {"filters": (32, 64, 128)}
#: Of the weights behind gates, shares meant for a file as large as that of the widths by hand: a
#: wider network has more beside them, and uneven widths take more operators. A report has both.
_CLOSED = _GATED | {"keep": 0.46}
#: Wide within blocks alone, where widths between them are those by hand.
_INNER = (
    _ENDS | _CLOSED | {"filters": (32, 52, 52), "inner": (48, 48, 80, 80, 80, 80), "keep": 0.607}
)
#: By name, the arguments in which an arm differs from the defaults: `w1`, sigmoid + FMB. `arms`
#: adds those of `FOUND`, seed by seed.
ARMS: dict[str, dict[str, Any]] = {
    "closed": _ENDS | _WIDE | _CLOSED,
    "by_hand": _BY_HAND | {"filters": (32, 52, 52)},
    "random": _ENDS | _WIDE | _CLOSED | {"keep_by": "random"},
    "frequency": _ENDS | _WIDE | _CLOSED | {"keep_by": "frequency"},
    "whole": _ENDS | _WIDE | _GATED,
    "closed_inner": _INNER,
    "random_inner": _INNER | {"keep_by": "random"},
    "closed_16kb": _ENDS | _CLOSED | {"filters": (24, 48, 48), "keep": 0.345},
    "by_hand_16kb": _BY_HAND | {"filters": (16, 32, 32)},
    "closed_20kb": _ENDS | _CLOSED | {"filters": (24, 48, 48), "keep": 0.51},
    "by_hand_20kb": _BY_HAND | {"filters": (20, 36, 36)},
    "closed_70kb": _ENDS | _CLOSED | {"filters": (48, 96, 120), "keep": 0.5},
    "by_hand_70kb": _BY_HAND | {"filters": (40, 72, 80)},
    "float32": {"precision": "float32", "attention": None} | _HE,
    "hundredth": _ENDS | _HE | _CLOSED | {"keep": 0.19},
    "smallest": _ENDS | _HE | _CLOSED | {"keep": 0.125},
}
#: Arms of widths that runs of another one find, and which.
FOUND = {
    "found": "closed",
    "found_gated": "closed",
    "found_inner": "closed_inner",
    "found_inner_gated": "closed_inner",
}
LABELS = {
    "closed": "wide, closed by gates, pruned",
    "found": "the widths found, from scratch, no gates",
    "found_gated": "the widths found, from scratch, gates",
    "by_hand": "hand-chosen widths, no gates",
    "frequency": "wide, those that open least pruned, no term in the loss",
    "random": "wide, as many weights removed at random",
    "whole": "wide, nothing removed",
    "closed_inner": "hand-chosen widths, wide within blocks alone, closed by gates, pruned",
    "found_inner": "the widths so found within blocks, from scratch, no gates",
    "found_inner_gated": "the widths so found within blocks, from scratch, gates",
    "random_inner": "wide within blocks alone, as many weights removed at random",
    "closed_16kb": "16 kB: closed by gates, pruned",
    "by_hand_16kb": "16 kB: hand-chosen widths",
    "closed_20kb": "20 kB: closed by gates, pruned",
    "by_hand_20kb": "20 kB: hand-chosen widths",
    "closed_70kb": "70 kB: closed by gates, pruned",
    "by_hand_70kb": "70 kB: hand-chosen widths",
    "float32": "(32, 64, 128), float32",
    "hundredth": "(32, 64, 128), 1-bit, closed by gates, pruned to 19 %",
    "smallest": "(32, 64, 128), 1-bit, closed by gates, pruned to 12.5 %",
}
#: Arms and how many seeds, in the order of training.
PLAN = (
    (("closed", "by_hand"), 1),
    (("found", "found_gated", "whole", "closed_inner", "random"), 1),
    (("closed_inner", "by_hand", "found_inner"), SEEDS),
    (("random_inner", "found_inner_gated"), SEEDS),
    (("closed", "found", "found_gated", "random"), SEEDS),
    (("float32", "hundredth", "smallest"), 1),
    (("closed_20kb", "by_hand_20kb", "closed_70kb", "by_hand_70kb"), 1),
    (("closed_16kb", "by_hand_16kb", "frequency"), 1),
)
#: Pairs of which the first is compared with the second, and what that tells.
COMPARED = (
    ("closed", "by_hand", "Do gates, pruned away, find a better network than hand-chosen widths?"),
    ("closed_inner", "by_hand", "Do they, where widths between blocks are the hand's?"),
    ("found_inner", "by_hand", "Are these widths better from scratch?"),
    ("closed_inner", "random_inner", "Do gates choose better than chance within blocks?"),
    ("found_inner_gated", "found_inner", "Do gates help once widths within blocks are chosen?"),
    ("closed_16kb", "by_hand_16kb", "Wide everywhere, at 16 kB"),
    ("closed_20kb", "by_hand_20kb", "The same at 20 kB"),
    ("closed_70kb", "by_hand_70kb", "The same at 70 kB"),
    ("found", "by_hand", "Are the widths that they find better than hand-chosen ones?"),
    ("closed", "found", "Is a wide network, closed, better than its widths from scratch?"),
    ("closed", "frequency", "Is the term in the loss of use?"),
    ("closed", "random", "Do gates that a term closes choose better than chance?"),
    ("found_gated", "found", "Do gates help once the widths are chosen?"),
)
#: Likewise, where the first is not meant to be better: `_goals` say how much worse it may be.
COSTS = (
    ("closed", "whole", "What does removing channels cost?"),
    ("hundredth", "float32", "What does a file a hundredth of the float32 network's size cost?"),
    ("smallest", "float32", "And one still smaller?"),
)
#: How many times as large a file may be as one that it is compared with at equal bytes.
EQUAL = 1.01
#: Where the difference of an arm to another one lies if it is better.
_BETTER = Range(high=0.0, seeds=SEEDS)


def compared():
    """The pairs of `COMPARED` and `COSTS`, as arms of the runs."""
    return [tuple(budget_arm(arm, BUDGET) for arm in pair) for *pair, _ in COMPARED + COSTS]


def arms(logs=None, seed=0):
    """`ARMS`, and those of `FOUND` whose widths a folder of logs has.

    Each seed has the widths that it found itself, so that chance in finding counts.
    """
    known = dict(ARMS)
    for arm, finds in FOUND.items():
        kept = logs and logs / f"{budget_arm(finds, BUDGET)}_seed{seed}.measures.json"
        if kept and kept.exists():
            found = _found(finds, json.loads(kept.read_text())["pruned"])
            known[arm] = _with_gates(found) if arm.endswith("_gated") else found
    return known


def _with_gates(found):
    squeezed = tuple(-(-channels // 4) for channels in found["inner"])
    return found | {"attention": "se", "squeezed": squeezed} | _GATED


def _found(arm, pruned):
    """The network that pruning a run of an arm left, as arguments."""
    inner = tuple(len(places) for places in pruned["kept"].values())
    return _BY_HAND | {"filters": ARMS[arm]["filters"], "inner": inner}


def runs(logs=None):
    """The runs of `PLAN`, each once; those of the widths found are as in `arms`."""
    known = [arms(logs, seed) for seed in range(SEEDS)]
    planned = {
        (arm, seed): budget_run(arm, known[seed][arm], BUDGET, seed)
        for names, seeds in PLAN
        for seed in range(seeds)
        for arm in names
        if arm in known[seed]
    }
    return list(planned.values())


def write_report(results):
    """Draws README.md, pruning.png and occupancy.png of a folder from the logs it holds."""
    logs = results / "logs"
    planned, known = runs(logs), arms(logs)
    grid = Grid(logs, arms_of(planned), {run.name: run.arguments for run in planned})
    costs = _costs(grid, known, results)
    sizes = {arm: each.file for arm, each in costs.items()}
    errors = {arm: budget_errors(grid, arm, BUDGET) for arm in LABELS if arm in known}
    text = (
        "# Do gates pay?\n\n"
        "`python training/reproduce.py --profile pruning`: test error after the last of "
        f"{BUDGET} epochs of recipe `fast`. {data.describe(*grid.data())} All arms but the "
        "float32 one are `w1` with 8-bit ends; gates (sigmoid, FMB, r = 4) are applied between "
        "the two convolutions of a block. Closed: `--keep` closes channels by a term in the loss "
        "during the first half of the epochs, and the rest is trained without gates. Without the "
        "term, those channels are kept that open for most images after the first half, or random "
        "ones. Found: the widths that the same seed of the first kept. Of the networks that are "
        "wide within blocks alone one seed of one arm was planned; its other seeds, and the arms "
        "that it is compared with within blocks, once that was known. The float32 network has no "
        "SE. "
        "Bytes: the LCE file of a network of that shape, `--weights 1bit_half --memory "
        "fewest-bytes --strip`. Activations: the most bytes that LiteRT keeps at once, filters "
        "not unpacked.\n\n"
        + _table_of_errors(grid, known, errors, costs)
        + "\nMean error, with that of each seed in brackets.\n\n"
        + _table_of_differences(grid, known, sizes)
        + "\nBelow 0 the first is better. In brackets 95 % intervals by paired bootstrap, for "
        "three seeds or more; t: by Student's t, for two or more.\n\n"
        + _goals(grid, known, sizes)
        + _settling(grid)
        + _occupancy(grid, results)
        + f"\n![error against bytes](pruning.png)\n\nFrom {grid.provenance()}\n"
    )
    document.write(results / "README.md", text)
    drawn = {  # float32 takes a hundred times the bytes of the others
        LABELS[arm]: (sizes[arm], found)
        for arm, found in errors.items()
        if found.size and arm != "float32"
    }
    figures.draw_bytes(drawn, results / "pruning")


def _table_of_errors(grid, known, errors, costs):
    parts = {"file": "bytes", "macs": "multiply-accumulates", "memory": "activations"}
    rows = [
        (
            LABELS[arm],
            "-".join(map(str, known[arm].get("filters", ()))),
            _kept(grid, known, arm),
            *(f"{getattr(costs[arm], part):,}" if arm in costs else "-" for part in parts),
            each_seed(found),
        )
        for arm, found in errors.items()
    ]
    header = ("network", "filters", "kept channels", *parts.values(), "test error")
    return files.table(header, rows)


def _table_of_differences(grid, known, sizes):
    rows = [
        (
            what,
            f"{LABELS[arm]}, minus {LABELS[other]}",
            _more_bytes(sizes, arm, other),
            (found := _difference(grid, arm, other)).text(hundredths),
            _answer(found, _ratio(sizes, arm, other)) if (arm, other, what) in COMPARED else "",
        )
        for arm, other, what in COMPARED + COSTS
        if arm in known and other in known
    ]
    header = ("question", "arms", "bytes", "error, points", "the first is better")
    return files.table(header, rows)


def _ratio(sizes, arm, other):
    """How many times as large the file of an arm is as that of another; NaN if one is not known."""
    return sizes.get(arm, np.nan) / sizes.get(other, np.nan)


def _more_bytes(sizes, arm, other):
    ratio = _ratio(sizes, arm, other)
    return "-" if np.isnan(ratio) else f"{ratio - 1:+.1%}"


def _answer(found, ratio):
    """Whether the first of two arms is better, if the whole interval by Student's t says so."""
    if not found.seeds:
        return found.lacking
    return {
        HOLDS: "**yes**" + ", with more bytes" * (ratio > EQUAL),
        FAILS: "**no**, worse" + ", with fewer bytes" * (ratio < 1 / EQUAL),
    }.get(_BETTER.judge(found), OPEN)


def _difference(grid, arm, other):
    return difference(grid, budget_arm(arm, BUDGET), budget_arm(other, BUDGET), BUDGET)


def _pruned(grid, arm):
    """What pruning the runs of an arm said, by seed."""
    measures = grid.measures[budget_arm(arm, BUDGET)]
    return [each["pruned"] for each in measures.values() if "pruned" in each]


def _kept(grid, known, arm):
    found = _pruned(grid, arm)
    if not found and "keep" in known[arm]:
        return "-"
    if not found:
        return " ".join(map(str, known[arm].get("inner", ()))) or "all"
    return "; ".join(
        " ".join(str(len(places)) for places in each["kept"].values()) for each in found
    )


def _costs(grid, known, results):
    """The `frontier.Cost` of each arm by its shape; of pruned networks of several seeds their mean.

    What a log says of its file is of the converter of its time.
    """
    shapes = {arm: _shapes(grid, known, arm) for arm in known}
    named = {
        f"{arm} {turn}": shape for arm, each in shapes.items() for turn, shape in enumerate(each)
    }
    costs = frontier.costs_of(named, results / "costs.json")
    of_arms = {
        arm: [dataclasses.astuple(costs[f"{arm} {turn}"]) for turn in range(len(each))]
        for arm, each in shapes.items()
        if each
    }
    return {
        arm: frontier.Cost(*(round(np.mean(part)) for part in zip(*each, strict=True)))
        for arm, each in of_arms.items()
    }


def _shapes(grid, known, arm):
    """The networks that the runs of an arm end with, or will: one, or more where seeds differ."""
    if "keep" in known[arm]:
        return [_found(arm, each) for each in _pruned(grid, arm)]
    of_shape = config.FLAG_GROUPS["model"]
    shapes: list[dict[str, Any]] = []
    for seed in grid.errors[budget_arm(arm, BUDGET)] or (0,):
        arguments = arms(grid.logs, seed)[arm]
        shape = {name: value for name, value in arguments.items() if name in of_shape}
        shapes += [shape] * (shape not in shapes)
    return shapes


def _goals(grid, known, sizes):
    """The goals that were set before the runs, and what became of them."""
    removed, cost = _removed(grid), _difference(grid, "closed", "whole")
    half_is_free = (removed >= 0.5, _at_most(0.01).judge(cost))
    rows = [
        (
            "half of the gated channels removed for 1 point or less",
            f"{percent(removed)} removed, {cost.text(hundredths)}" if cost.seeds else NOT_RUN_YET,
            _verdict(cost, *half_is_free),
        )
    ]
    for arm, times, most in (("hundredth", 100, 3), ("smallest", 128, 2)):
        ratio, cost = _ratio(sizes, "float32", arm), _difference(grid, arm, "float32")
        rows.append(
            (
                f"a file {times} times smaller than the float32 network's for {most} points or "
                "less",
                f"{ratio:.1f} times, {cost.text(hundredths)}" if cost.seeds else NOT_RUN_YET,
                _verdict(cost, ratio >= times, _at_most(most / 100).judge(cost)),
            )
        )
    for arm in ("closed", "found", "closed_inner", "found_inner"):
        gain = _difference(grid, arm, "by_hand") if arm in known else NOT_RUN
        more = f", {_more_bytes(sizes, arm, 'by_hand')} bytes" if gain.seeds else ""
        rows.append(
            (
                f"{LABELS[arm]}: better than hand-chosen widths, the whole 95 % interval (t), "
                f"in at most {EQUAL - 1:.0%} more bytes",
                gain.text(hundredths) + more,
                _verdict(gain, _ratio(sizes, arm, "by_hand") <= EQUAL, _BETTER.judge(gain)),
            )
        )
    return files.table(("goal", "measured", "verdict"), rows) + "\n"


def _at_most(cost):
    return Range(high=cost, by_interval=False)


def _verdict(found, is_so, judged):
    """On a goal of two parts: one that can be counted, and a verdict on what was found."""
    return of_goal(all_of([HOLDS if is_so else FAILS, judged]), found)


def _removed(grid):
    """The share of the gated channels that pruning removed, of the seeds whose cost is known."""
    arms = [budget_arm(arm, BUDGET) for arm in ("closed", "whole")]
    measures = [grid.measures[arms[0]][seed] for seed in grid.paired(*arms, epochs=BUDGET)]
    kept = [
        (len(places), measured["occupancy"][block]["channels"])
        for measured in measures
        for block, places in measured["pruned"]["kept"].items()
    ]
    return 1 - sum(part for part, _ in kept) / sum(of for _, of in kept) if kept else np.nan


def _settling(grid):
    """How far the gates of each closed arm had closed by themselves when they settled."""
    told = []
    for arm in (name for name in LABELS if name in ARMS and "keep" in ARMS[name]):
        epoch = config.Config(**ARMS[arm], epochs=BUDGET).epoch_of_settling()
        found = grid.modules(budget_arm(arm, BUDGET), epoch)
        if found:
            never, channels = (mean_count(found, key) for key in ("never_open", "channels"))
            is_open = np.mean([mean_share(each, "open") for each in found])
            told.append(
                f"- {LABELS[arm]}: {percent(is_open)} of the gates open, {never:.0f} of "
                f"{channels:.0f} channels for none\n"
            )
    if not told:
        return ""
    return f"\nWhen gates settled, for {GATE_IMAGES} test images:\n\n{''.join(told)}"


def _occupancy(grid, results):
    """Which channels each depth needs, of the first run that there is of those that close."""
    for arm in ("closed", "closed_70kb", "closed_20kb", "closed_16kb", "whole", "found_gated"):
        found = modules.occupancy(grid, budget_arm(arm, BUDGET), results)
        if found:
            settled = " They were settled before, so that no channel is open for some." * (
                "keep" in ARMS.get(arm, {})
            )
            return f"\n{found} Gates: {LABELS[arm]}.{settled}\n"
    return ""
