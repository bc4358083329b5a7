"""The paper's grid of trainings, and the recipe's: one command runs what is missing."""

import argparse
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable

from larq_seresnet import programs
from larq_seresnet.training.study import ablation, frontier, goals, paper, pruning, runs, spatial
from larq_seresnet.training.study.runs import Run

RESULTS, RUNS = pathlib.Path("results"), pathlib.Path("runs")
Runs = list[Run]


def main(argv=None):
    """Runs what of a profile is not done, then draws its report from all logs there are."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    profile = PROFILES[arguments.profile]
    folder, results = arguments.runs_dir or profile.folder, arguments.out_dir or profile.results
    logs = results / profile.logs
    failed, tried = [], set()
    with programs.refusing_bad_input(parser):
        try:
            if arguments.print_commands:
                missing = _missing(profile, arguments, logs)
                for run in _teachers(profile, missing):
                    print(shlex.join(run.command(RUNS)))
                for run in missing:
                    print(shlex.join(run.command(folder)))
                return
            while missing := _missing(profile, arguments, logs, tried):
                for problem in runs.train_all(_teachers(profile, missing), 1, RUNS):
                    if problem:
                        raise ValueError(f"the teacher failed, see {problem}")
                for problem in runs.train_all(missing, arguments.jobs, folder, logs):
                    if problem:
                        failed.append(problem)
                    else:
                        profile.draw(results)
                tried |= {run.name for run in missing}
            if not tried:
                profile.draw(results)
        except (ValueError, OSError):
            for problem in failed:
                print(f"{parser.prog}: a run failed, see {problem}", file=sys.stderr)
            raise
    if failed:
        sys.exit(f"{len(failed)} runs failed, see what they printed: {', '.join(failed)}")
    print(f"drew what {results} holds")


def _missing(profile, arguments, logs, tried=frozenset()):
    """The runs of a profile that are to be trained, without those whose names were tried."""
    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, received {arguments.jobs}.")
    planned = profile.planned(logs)
    known = list(dict.fromkeys([run.arm for run in planned] + profile.later))
    chosen = arguments.arms or known
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"`arms` must be among {', '.join(known)}, received {unknown[0]!r}.")
    if arguments.report_only:
        if not any(logs.glob("*.csv")):
            raise ValueError(f"--report-only needs logs, {logs} holds none.")
        return []
    asked = [run for run in planned if run.arm in chosen and run.name not in tried]
    missing = [run for run in asked if not runs.is_done(run, logs)]
    if not tried:
        print(f"{len(asked) - len(missing)} of {len(asked)} runs are done", file=sys.stderr)
    return missing


def _teachers(profile, missing):
    """What is to be trained before some runs: their teacher, unless it is there."""
    teacher = profile.teacher
    is_needed = teacher and any(run.arguments.get("teacher") for run in missing)
    return [teacher] if is_needed and not runs.is_trained(teacher, RUNS / teacher.name) else []


@dataclasses.dataclass(frozen=True)
class Profile:
    """Runs that one command trains.

    Attributes:
        runs: In the order of training.
        draw: Draws a report from the logs in a folder of results.
        results: That folder; `logs` is the one of logs in it.
        folder: Of run directories.
        teacher: A run in `RUNS` that teaches others; it is trained first.
        following: From the folder of logs, `runs` and those that follow from what logs say; None
            where none do.
        later: The arms of those that follow.
        compared: Pairs of arms that are compared; None: each with every other one of its budget.
    """

    runs: Runs
    draw: Callable[[pathlib.Path], None] = paper.write_report
    results: pathlib.Path = RESULTS / "paper"
    logs: str = "logs"
    folder: pathlib.Path = RUNS / "paper"
    teacher: Run | None = None
    following: Callable[[pathlib.Path], Runs] | None = None
    later: list[str] = dataclasses.field(default_factory=list)
    compared: list[tuple[str, ...]] | None = None

    def planned(self, logs):
        """All runs that are known of by now, in the dtypes of those that there are."""
        known = self.following(logs) if self.following else self.runs
        return runs.as_compared(known, logs, self.compared)


PROFILES = {
    "tuning": Profile(paper.tuning(), paper.write_tuning, logs="tuning"),
    "smoke": Profile(paper.smoke(), results=RUNS / "smoke" / "report", folder=RUNS / "smoke"),
    "short": Profile(paper.short()),
    "full": Profile(paper.full()),
    "ablation": Profile(
        ablation.runs(),
        ablation.write_report,
        results=RESULTS / "recipe",
        folder=RUNS / "ablation",
    ),
    "frontier": Profile(
        frontier.runs(),
        frontier.write_report,
        results=RESULTS / "frontier",
        folder=RUNS / "frontier",
    ),
    "goals": Profile(
        goals.runs(),
        goals.write_report,
        results=RESULTS / "goals",
        folder=RUNS / "goals",
        teacher=goals.TEACHER,
    ),
    "pruning": Profile(
        pruning.runs(),
        pruning.write_report,
        results=RESULTS / "pruning",
        folder=RUNS / "pruning",
        following=pruning.runs,
        later=[runs.budget_arm(arm, pruning.BUDGET) for arm in pruning.FOUND],
        compared=pruning.compared(),
    ),
    "spatial": Profile(
        spatial.runs(),
        spatial.write_report,
        results=RESULTS / "spatial",
        folder=RUNS / "spatial",
    ),
}


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        default="short",
        help="tuning, smoke, short, full: how much of the paper's grid; ablation: the steps to "
        "recipe fast; frontier: shapes of one size; goals: what it reaches; spatial: spatial "
        "attention; pruning: gates that close, and networks of as many bytes (default: short)",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trainings at once (default: 1)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--print-commands",
        action="store_true",
        help="print what is left to train, one command a line, and train nothing; widths that "
        "pruning finds are not among it before they are found",
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
