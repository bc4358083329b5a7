"""The paper's announced next step: spatial FMB, alone and after channel FMB."""

import json

import numpy as np

from larq_seresnet import files
from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.training import config, data
from larq_seresnet.training.callbacks import GATE_IMAGES
from larq_seresnet.training.study import document, figures
from larq_seresnet.training.study.estimates import each_seed, hundredths
from larq_seresnet.training.study.grid import Grid, difference
from larq_seresnet.training.study.runs import arms_of, budget_arm, budget_errors, budget_run

#: By name, the arguments in which an arm differs from the defaults: `w1`, sigmoid + FMB.
ARMS = {
    "none": {"attention": None},
    "channel": {"fmb": False},
    "channel_fmb": {},
    "position": {"attention": "spatial", "fmb": False},
    "position_fmb": {"attention": "spatial"},
    "both": {"attention": "cbam", "fmb": False},
    "both_fmb": {"attention": "cbam"},
    "hard_tanh_fmb": {"activation": "hard_tanh"},
}
LABELS = {
    "none": "no attention",
    "channel": "channel",
    "channel_fmb": "channel + FMB",
    "position": "spatial",
    "position_fmb": "spatial + FMB",
    "both": "both",
    "both_fmb": "both + FMB",
    "hard_tanh_fmb": "channel + FMB, hard tanh",
}
#: Budget in epochs, how many seeds, and which arms.
PLAN = ((6, 5, tuple(ARMS)), (25, 2, ("none", "channel_fmb", "position_fmb", "both_fmb")))
#: Pairs of which the first is compared with the second, and what that tells.
COMPARED = (
    ("channel", "none", "channel attention"),
    ("position", "none", "spatial attention"),
    ("both", "channel", "spatial in addition to channel attention"),
    ("channel_fmb", "channel", "FMB of channel attention"),
    ("position_fmb", "position", "FMB of spatial attention"),
    ("both_fmb", "both", "FMB of both"),
    ("channel_fmb", "none", "channel attention with FMB"),
    ("position_fmb", "none", "spatial attention with FMB"),
    ("both_fmb", "none", "both with FMB"),
    ("hard_tanh_fmb", "channel_fmb", "hard tanh instead of sigmoid, both with FMB"),
)


def runs():
    """The runs of `PLAN`: by budget, then seed."""
    return [
        budget_run(arm, ARMS[arm], budget, seed)
        for budget, seeds, arms in PLAN
        for seed in range(seeds)
        for arm in arms
    ]


def write_report(results):
    """Draws README.md and positions.png of a folder from the logs it holds."""
    grid = Grid(results / "logs", arms_of(runs()))
    text = (
        "# Channel and spatial attention, with and without FMB\n\n"
        + _findings(grid)
        + "`python training/reproduce.py --profile spatial`: test error after the last epoch of a "
        f"budget of recipe `fast`. {data.describe(*grid.data())} All arms are `w1`, with sigmoid "
        "unless stated otherwise. Spatial attention is CBAM's (mean and maximum over channels, a "
        "7x7 kernel with 1-bit weights), binarised by FMB in the same way as channel attention. "
        'With "both" it is applied to the output of the channel gates. Its kernels are trained '
        "with Muon, as those of all convolutions; the matrices of channel attention with "
        "Adam.\n\n"
        + _errors(grid)
        + "\nMean error, with that of each seed in brackets.\n\n"
        + _differences(grid)
        + "\nPoints of error; below 0 the first is better. In brackets 95 % intervals by paired "
        "bootstrap, for three seeds or more; t: by Student's t, for two or more.\n\n"
        + _open(grid)
        + f'\nShares over {GATE_IMAGES} test images after the last epoch, means over seeds. "Could '
        "be skipped\": the share of the network's multiply-accumulates that compute results of a "
        "block's last convolution which a closed gate then removes, of the seeds the least and the "
        'most in brackets; "factor": how many times less work is left. This is an upper bound, not '
        "a saving: the gates are computed from these very results, so hardware would have to "
        "predict them. The paper's factor of 4 assumes that half of the channels and half of the "
        "positions are closed. A gate counts as open at or above FMB's threshold. Without FMB, or "
        "with tanh, whose closed gates are -1, nothing is removed.\n\n"
        + _picture(grid, results)
        + _shared(grid, results.parent / "goals" / "logs")
        + _proofs(results / "device")
        + f"From {grid.provenance()}\n"
    )
    document.write(results / "README.md", text)


def _shared(grid, others):
    """A sentence on the runs that stand in the goals' logs too, under other names."""
    known = {path.read_bytes() for path in others.glob("*.csv")}
    found = sum(path.read_bytes() in known for path in grid.runs)
    if not found:
        return ""
    return (
        f"{found} of these {len(grid.runs)} trainings, of arms that [the goals]"
        "(../goals/README.md) have too, are the same ones as theirs, not a repetition.\n\n"
    )


def _proofs(device):
    """What convert.py found of files of such a network, where it has converted one."""
    found = []
    for path in sorted(device.glob("*.json")):
        proof = json.loads(path.read_text())
        same = round(proof["argmax_agreement"] * proof["images"])
        found.append(
            f"[{path.stem}](device/{path.stem}.md): {proof['bytes']:,} bytes, the class of the "
            f"Keras model for {same:,} of {proof['images']:,} images"
        )
    if not found:
        return ""
    return f"Files of both + FMB, 25 epochs, seed 0, on a device: {'; '.join(found)}.\n\n"


def _errors(grid):
    budgets = [budget for budget, _, _ in PLAN]
    rows = [
        (LABELS[arm], *(each_seed(budget_errors(grid, arm, budget)) for budget in budgets))
        for arm in ARMS
    ]
    return files.table(("attention", *(f"{budget} epochs" for budget in budgets)), rows)


def _differences(grid):
    rows = []
    for arm, other, what in COMPARED:
        found = []
        for budget, _, arms in PLAN:
            pair = [budget_arm(each, budget) for each in (arm, other)]
            known = {arm, other} <= set(arms)
            found.append(difference(grid, *pair, budget).text(hundredths) if known else "-")
        rows.append((what, f"{LABELS[arm]} minus {LABELS[other]}", *found))
    return files.table(("", "", *(f"{budget} epochs" for budget, _, _ in PLAN)), rows)


def _findings(grid):
    """What the differences and the closed gates say, in sentences."""

    def change(arm, other, budget):
        pair = (budget_arm(each, budget) for each in (arm, other))
        return difference(grid, *pair, budget).brief(hundredths)

    first = PLAN[0][0]
    told = (
        f"After {first} epochs channel attention changes the error by "
        f"{change('channel', 'none', first)} points, spatial attention by "
        f"{change('position', 'none', first)}, and spatial in addition to channel attention by "
        f"{change('both', 'channel', first)}. FMB adds {change('channel_fmb', 'channel', first)} "
        f"to the first, {change('position_fmb', 'position', first)} to the second and "
        f"{change('both_fmb', 'both', first)} to both. "
    )
    opened = [
        each["open"]
        for budget, _, _ in PLAN
        for each in grid.measures[budget_arm("both_fmb", budget)].values()
    ]
    if opened:
        least, most = (1 / (1 - of(map(_skipped, opened))) for of in (min, max))
        half = {name: block | {"both": 0.25} for name, block in opened[0].items()}
        told += (
            f"Gates of channels and positions would save a factor of {least:.2f} to {most:.2f} of "
            "the multiply-accumulates if hardware could skip what they close. The paper hopes for "
            "4; with half of the channels and half of the positions closed it would be "
            f"{1 / (1 - _skipped(half)):.2f}, because only the second convolution of a block comes "
            "before a gate.\n\n"
        )
    return told.rstrip() + "\n\n"


def _open(grid):
    """What of each block is open, and what of the network's work that would save at most."""
    rows = []
    for budget, _, arms in PLAN:
        for arm in (each for each in arms if each != "none"):
            name = budget_arm(arm, budget)
            measured = [each["open"] for each in grid.measures[name].values() if each]
            if not measured:
                continue
            settings = config.Config(**ARMS[arm])
            kinds = {
                "channels": settings.attention != "spatial",
                "positions": settings.attention != "se",
            }
            cells = [
                " ".join(f"{share:.0%}" for share in _by_block(measured, key)) if there_are else "-"
                for key, there_are in kinds.items()
            ]
            saved = ("-", "-")
            if settings.fmb and GATE_ACTIVATIONS[settings.activation].closed == 0:
                saved = _saved([_skipped(each) for each in measured])
            error = f"{budget_errors(grid, arm, budget).mean():.2%}"
            rows.append((LABELS[arm], budget, len(measured), error, *cells, *saved))
    header = (
        "attention",
        "epochs",
        "seeds",
        "test error",
        "open channels, block by block",
        "open positions",
        "could be skipped",
        "factor",
    )
    return files.table(header, rows)


def _by_block(measured, key):
    """Means over seeds, block by block."""
    return [np.mean([each[block][key] for each in measured]) for block in measured[0]]


def _skipped(opened):
    """The share of all multiply-accumulates whose results closed gates of a run remove."""
    return sum((1 - block["both"]) * block["work"] for block in opened.values())


def _saved(skipped):
    mean, least, most = np.mean(skipped), min(skipped), max(skipped)
    return f"{mean:.1%} ({least:.1%} to {most:.1%})", f"{1 / (1 - mean):.2f}"


def _picture(grid, results):
    """Which positions are open in some test images, of the longest run of positions alone."""
    for budget, _, _ in reversed(PLAN):
        path = grid.logs / f"{budget_arm('position_fmb', budget)}_seed0.npz"
        if path.exists():
            records = files.load_arrays(path)
            blocks, shares = (
                {
                    name.removeprefix(part): values
                    for name, values in records.items()
                    if name.startswith(part)
                }
                for part in ("positions/", "shares/")
            )
            figures.draw_positions(records["images"], blocks, shares, results / "positions")
            closed = ", ".join(f"{np.mean(each == 0):.0%}" for each in shares.values())
            return (
                "![open positions](positions.png)\n\nPositions that are open (white) at the end of "
                f"each block, spatial + FMB, {budget} epochs, seed 0; in the last row the means "
                f"over {GATE_IMAGES} test images. A closed position loses the block's convolutions "
                "and keeps its shortcut. Positions that are closed for all these images, block by "
                f"block: {closed}.\n\n"
            )
    return ""
