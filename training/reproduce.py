"""The paper's grid of trainings, and the recipe's: one command runs what is missing."""

import argparse
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from larq_seresnet import files
from larq_seresnet.training import ablation, claims, data, figures, goals, measures, runs, tables
from larq_seresnet.training.grid import THRESHOLD, Grid

RESULTS, RUNS = pathlib.Path("results"), pathlib.Path("runs")
_LITERAL = {"attention": "se_paper", "fmb_gradient": "none"}
_SIGMOID = {"activation": "sigmoid", "fmb": False}
_TANH = {"activation": "tanh", "fmb": False}
_SIGMOID_FMB = {"activation": "sigmoid", "fmb": True}
_TANH_FMB = {"activation": "tanh", "fmb": True}
_THROUGH = {"attention": "se_paper", "fmb_gradient": "straight_through"}

#: Blocks of arms; an arm is a name and the arguments in which it differs from `Config`'s defaults.
BLOCKS: dict[str, dict[str, dict[str, Any]]] = {
    "paper-literal": {
        "sigmoid": _LITERAL | _SIGMOID,
        "tanh": _LITERAL | _TANH,
        "sigmoid_fmb": _LITERAL | _SIGMOID_FMB,
        "tanh_fmb": _LITERAL | _TANH_FMB,
        "float32_sigmoid": _LITERAL | _SIGMOID | {"precision": "float32"},
    },
    "controls": {
        "no_se": {"attention": None},
        "float32_se": {"attention": "se_float32"} | _SIGMOID,
        "float32_no_se": {"attention": None, "precision": "float32"},
    },
    "gradient": {
        "sigmoid_fmb_through": _THROUGH | _SIGMOID_FMB,
        "tanh_fmb_through": _THROUGH | _TANH_FMB,
    },
    "ours": {
        "scaled": _SIGMOID,
        "scaled_fmb_through": _SIGMOID_FMB | {"fmb_gradient": "straight_through"},
        "scaled_fmb_none": _SIGMOID_FMB | {"fmb_gradient": "none"},
    },
    "activations": {
        "w1a1_no_se": {"attention": None, "precision": "w1a1"},
        "w1a1_sigmoid": _LITERAL | _SIGMOID | {"precision": "w1a1"},
        "w1a1_sigmoid_fmb": _LITERAL | _SIGMOID_FMB | {"precision": "w1a1"},
        "w1a1_tanh": _LITERAL | _TANH | {"precision": "w1a1"},
        "w1a1_tanh_fmb": _LITERAL | _TANH_FMB | {"precision": "w1a1"},
    },
}
#: All on He's network, as the paper's is.
ARMS = {
    arm: {"shortcut": "conv", "head": "bias"} | arguments
    for block in BLOCKS.values()
    for arm, arguments in block.items()
}
#: By figure of the paper: its arms, and up to which epoch.
CURVES = {
    3: (("sigmoid", "float32_sigmoid"), 10),
    7: (("sigmoid", "tanh"), 10),
    8: (claims.ALL_FOUR, 10),
    9: (("sigmoid", "no_se", "sigmoid_fmb"), 25),
    10: (claims.ALL_FOUR, claims.LAST_EPOCH),
}
#: What the recipe `plain` was tuned on: the control, and the paper's own baseline.
TUNED = ("no_se", "sigmoid")
RATES = (0.001, 0.003, 0.01, 0.03)


def _grid(plan, **common):
    """Runs in the order of `plan`, (arms, their epochs, seeds): all arms of one seed first.

    A constant rate makes a short run the beginning of a long one: what comes twice is run once.
    """
    found: dict[str, runs.Run] = {}
    for arms, epochs, seeds in plan:
        for seed in seeds:
            for arm in arms:
                name = f"{arm}_seed{seed}"
                last = max(epochs(arm), found[name].arguments["epochs"] if name in found else 0)
                arguments = {"recipe": "plain", "epochs": last, "seed": seed}
                found[name] = runs.Run(name, ARMS[arm] | arguments | common)
    return list(found.values())


def _arms(*blocks):
    return [arm for block in blocks for arm in BLOCKS[block]]


def _until_table_iii(arm):
    return 25 if arm in claims.TABLE_III_ARMS else 10


def _tuning():
    return [
        runs.Run(
            f"{arm}_rate{rate}",
            ARMS[arm]
            | {"recipe": "plain", "epochs": 5, "seed": 0, "held_out": 5000, "learning_rate": rate}
            | {"dataset": "cifar10"},
        )
        for rate in RATES
        for arm in TUNED
    ]


_FIRST, _REST = _arms("paper-literal", "controls"), _arms("gradient", "ours", "activations")


def main(argv=None):
    """Runs what of a profile is not done, then draws its report from all logs there are."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    profile = PROFILES[arguments.profile]
    folder, results = arguments.runs_dir or profile.folder, arguments.out_dir or profile.results
    failed = []
    try:
        missing = _missing(profile, arguments, results / profile.logs)
        if arguments.print_commands:
            for run in missing:
                print(shlex.join(run.command(folder)))
            return
        for problem in runs.train_all(missing, arguments.jobs, folder, results / profile.logs):
            if problem:
                failed.append(problem)
            else:
                profile.draw(results)
        if not missing:
            profile.draw(results)
    except (ValueError, OSError, data.DataUnavailable) as problem:
        failed.insert(0, str(problem))
        parser.exit(2, f"{parser.prog}: error: {'; also failed: '.join(failed)}\n")
    if failed:
        sys.exit(f"{len(failed)} runs failed, see what they printed: {', '.join(failed)}")
    print(f"drew what {results} holds")


def _missing(profile, arguments, logs):
    """The runs of a profile that are to be trained."""
    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, received {arguments.jobs}.")
    known = list(dict.fromkeys(run.arm for run in profile.runs))
    chosen = arguments.arms or known
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"`arms` must be among {', '.join(known)}, received {unknown[0]!r}.")
    if arguments.report_only:
        if not any(logs.glob("*.csv")):
            raise ValueError(f"--report-only needs logs, {logs} holds none.")
        return []
    asked = [run for run in profile.runs if run.arm in chosen]
    missing = [run for run in asked if not runs.is_done(run, logs)]
    print(f"{len(asked) - len(missing)} of {len(asked)} runs are done", file=sys.stderr)
    return missing


def write_report(results):
    """Draws report.md, summary.csv and the figures of a folder from the logs it holds."""
    grid = Grid(results / "logs", ARMS)
    for name, content in (
        ("report.md", tables.report(grid, BLOCKS)),
        ("summary.csv", tables.summary(grid)),
    ):
        files.replace(results / name, lambda part, content=content: part.write_text(content))
    for number, (arms, last) in CURVES.items():
        figures.draw_errors(
            grid,
            {arm: claims.named(arm) for arm in arms},
            tables.FIGURES[number],
            results / f"figure{number:02d}",
            last,
            claims.STATED,
            THRESHOLD if number == 9 else None,
        )
    if tables.gates_log(grid).exists():
        with np.load(tables.gates_log(grid)) as records:
            _draw_gates(dict(records), results)


def _draw_gates(records, results):
    """Figures 4 and 5, the first SE module's gates at epochs 1 and 10, and 6, their histogram."""
    recorded = sorted({int(name[5:8]) for name in records})
    for number, epoch in ((4, recorded[0]), (5, min(claims.GATES_EPOCH, recorded[-1]))):
        module = f"epoch{epoch:03d}/{measures.FIRST_MODULE}"
        values, gates = records[f"{module}_se"], records[f"{module}_fmb"]
        title = f"First SE module, sigmoid + FMB, seed 0, epoch {epoch}"
        figures.draw_gate_values(values, gates, title, results / f"figure{number:02d}")
    figures.draw_gate_histogram(values, gates, title, results / "figure06")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Runs that one command trains.

    Attributes:
        runs: In the order of training.
        draw: Draws a report from the logs in a folder of results.
        results: That folder; `logs` is the one of logs in it.
        folder: Of run directories.
    """

    runs: list[runs.Run]
    draw: Callable[[pathlib.Path], None] = write_report
    results: pathlib.Path = RESULTS / "paper"
    logs: str = "logs"
    folder: pathlib.Path = RUNS / "paper"


PROFILES = {
    "tuning": Profile(_tuning(), logs="tuning"),
    "smoke": Profile(
        _grid(
            [(_FIRST, lambda arm: 2, range(2))],
            dataset="digits",
            limit_train=256,
            limit_test=100,
            batch_size=64,
            filters=(4, 8, 16),
            compute_dtype="float32",
        ),
        results=RUNS / "smoke" / "report",
        folder=RUNS / "smoke",
    ),
    "short": Profile(
        _grid(
            [(_FIRST, _until_table_iii, range(3)), (_REST, _until_table_iii, range(2))],
            dataset="cifar10",
        )
    ),
    "full": Profile(
        _grid(
            [
                (_FIRST + _REST, _until_table_iii, range(5)),
                (claims.ALL_FOUR, lambda arm: claims.LAST_EPOCH, range(1)),
            ],
            dataset="cifar10",
        )
    ),
    "ablation": Profile(
        ablation.runs(),
        ablation.write_report,
        results=RESULTS / "recipe",
        folder=RUNS / "ablation",
    ),
    "goals": Profile(
        goals.runs(),
        goals.write_report,
        results=RESULTS / "goals",
        folder=RUNS / "goals",
    ),
}


def _parser():
    parser = argparse.ArgumentParser(prog="reproduce.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        default="short",
        help="tuning, smoke, short, full: how much of the paper's grid; ablation: the steps to "
        "recipe fast; goals: what it reaches (default: short)",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trainings at once (default: 1)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--print-commands",
        action="store_true",
        help="print what is left to train, one command a line, and train nothing",
    )
    instead.add_argument(
        "--report-only", action="store_true", help="train nothing, draw the report from the logs"
    )
    parser.add_argument(
        "--runs-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="of run directories (default: that of the profile, such as runs/paper)",
    )
    parser.add_argument(
        "--out-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="of logs, tables and figures (default: that of the profile, such as results/paper)",
    )
    return parser


if __name__ == "__main__":
    main()
