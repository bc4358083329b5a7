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
from larq_seresnet.training.grid import Grid

ROOT = pathlib.Path(__file__).parent.parent
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
#: By figure of the paper: its arms, a title, and up to which epoch.
CURVES = {
    3: (("sigmoid", "float32_sigmoid"), "SE with sigmoid, no FMB: 1-bit and float32", 10),
    7: (("sigmoid", "tanh"), "1-bit, no FMB", 10),
    8: (claims.ALL_FOUR, "1-bit", 10),
    9: (("sigmoid", "no_se", "sigmoid_fmb"), "1-bit, until 30 % error", 25),
    10: (claims.ALL_FOUR, "1-bit, as far as run of 100 epochs", None),
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
    logs = results / profile.logs
    failed = []
    try:
        if arguments.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, received {arguments.jobs}.")
        missing = [] if arguments.report_only else _missing(profile, arguments.arms, logs)
        if arguments.print_commands:
            for run in missing:
                print(shlex.join(run.command(folder)))
            return
        for problem in runs.train_all(missing, arguments.jobs, folder, logs):
            failed += [problem] if problem else []
            if not problem:
                profile.draw(results)
        if not missing:
            profile.draw(results)
    except (ValueError, OSError, data.DataUnavailable) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    print(f"drew what {results} holds")
    if failed:
        sys.exit(f"{len(failed)} runs failed, see what they printed: {', '.join(failed)}")


def _missing(profile, arms, logs):
    """The runs of a profile that are not done."""
    known = list(dict.fromkeys(run.arm for run in profile.runs))
    unknown = sorted(set(arms or known) - set(known))
    if unknown:
        raise ValueError(f"`arms` must be among {', '.join(known)}, received {unknown[0]!r}.")
    chosen = [run for run in profile.runs if run.arm in (arms or known)]
    missing = runs.missing(chosen, logs)
    print(f"{len(chosen) - len(missing)} of {len(chosen)} runs are done", file=sys.stderr)
    return missing


def write_report(results):
    """Draws report.md, summary.csv and the figures of a folder from the logs it holds."""
    results.mkdir(parents=True, exist_ok=True)
    grid = Grid(results / "logs", ARMS)
    for name, content in (
        ("report.md", tables.report(grid, BLOCKS)),
        ("summary.csv", tables.summary(grid)),
    ):
        files.replace(results / name, lambda part, content=content: part.write_text(content))
    for number, (arms, title, last) in CURVES.items():
        labels = {arm: claims.named(arm) for arm in arms}
        figures.draw_errors(grid, labels, title, results / f"figure{number:02d}", last)
    gates = results / "logs" / "sigmoid_fmb_seed0.npz"
    if gates.exists():
        with np.load(gates) as records:
            _draw_gates(dict(records), results)


def _draw_gates(records, results):
    """Figures 4 and 5, the first SE module's gates at epochs 1 and 10, and 6, their histogram."""
    recorded = sorted({int(name[5:8]) for name in records})
    for number, epoch in ((4, recorded[0]), (5, min(claims.GATES_EPOCH, recorded[-1]))):
        module = f"epoch{epoch:03d}/{measures.FIRST_MODULE}"
        values, gates = records[f"{module}_se"], records[f"{module}_fmb"]
        title = f"First SE module, sigmoid + FMB, epoch {epoch}"
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
    results: pathlib.Path = ROOT / "results" / "paper"
    logs: str = "logs"
    folder: pathlib.Path = pathlib.Path("runs") / "paper"


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
        results=pathlib.Path("runs") / "smoke" / "report",
        folder=pathlib.Path("runs") / "smoke",
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
    "recipe": Profile(
        ablation.runs(),
        ablation.write_report,
        results=ROOT / "results" / "recipe",
        folder=pathlib.Path("runs") / "recipe",
    ),
    "fast": Profile(
        goals.runs(),
        goals.write_report,
        results=ROOT / "results" / "fast",
        folder=pathlib.Path("runs") / "fast",
    ),
}


def _parser():
    parser = argparse.ArgumentParser(prog="reproduce.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        default="short",
        help="how much of the grid (default: short)",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trainings at once (default: 1)"
    )
    parser.add_argument(
        "--print-commands",
        action="store_true",
        help="print what is left to train, one command a line, and train nothing",
    )
    parser.add_argument(
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
