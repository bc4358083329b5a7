"""Trainings that belong together: what is missing is trained, what is done is skipped."""

import collections
import concurrent.futures
import ctypes
import dataclasses
import pathlib
import shlex
import signal
import subprocess
import sys
from typing import Any

import numpy as np

from larq_seresnet.training import callbacks, config, flags, train
from larq_seresnet.training.study import measures


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: a directory `name`, and the arguments of its `Config`."""

    name: str
    arguments: dict[str, Any]

    @property
    def arm(self) -> str:
        return self.name.rsplit("_", 1)[0]

    def command(self, runs: pathlib.Path) -> list[str]:
        """What trains it, or goes on with it where it stands: the same at any time."""
        run_dir = runs / self.name
        script = pathlib.Path(train.__file__)
        words = [*flags.words(self.arguments), "--run-dir", str(run_dir), "--resume"]
        return [sys.executable, str(script), *words]


def budget_arm(arm, epochs):
    """An arm's name at a budget: where the rate ends at zero, every budget is an arm of its own."""
    return f"{arm}_budget{epochs}"


def budget_run(arm, arguments, epochs, seed):
    """A run of recipe `fast` on CIFAR-10 within a budget."""
    given = {"recipe": "fast", "epochs": epochs, "seed": seed, "dataset": "cifar10"}
    return Run(f"{budget_arm(arm, epochs)}_seed{seed}", arguments | given)


def budget_errors(grid, arm, epochs):
    """The errors of an arm's seeds at the end of a budget, none where it was not planned."""
    name = budget_arm(arm, epochs)
    return grid.at(epochs, name)[0] if name in grid.errors else np.array([])


def arms_of(runs):
    """By name, the arguments that the seeds of each arm share."""
    return {
        run.arm: {name: value for name, value in run.arguments.items() if name != "seed"}
        for run in runs
    }


def as_compared(runs, logs, compared=None):
    """Runs that compute in the dtype of those they are compared with, where `logs` hold some.

    Left to two machines it may be two dtypes, and such runs are no pair.

    Args:
        runs: All that there may be.
        logs: Folder of what `measures.collect` wrote.
        compared: Pairs of arms; None: each with every other one, of as many epochs where the rate
            is annealed.
    """
    known = {
        run.name: config.read(path)[0].compute_dtype
        for run in runs
        if (path := logs / f"{run.name}.json").exists()
    }
    return [run if run.name in known else _in_dtype(run, runs, known, compared) for run in runs]


def _in_dtype(run, runs, known, compared):
    arms = _linked(run.arm, compared) if compared else {other.arm for other in runs}
    names = set() if config.Config(**run.arguments).extendable else {"epochs"}
    for alike_in in (names | {"seed"}, names):  # of the same seed; else of whichever there is
        alike = {name: run.arguments[name] for name in alike_in}
        dtypes = collections.Counter(
            known[other.name]
            for other in runs
            if other.name in known
            and other.arm in arms
            and alike.items() <= other.arguments.items()
        )
        if dtypes:
            chosen = {"compute_dtype": dtypes.most_common(1)[0][0]}
            return dataclasses.replace(run, arguments=run.arguments | chosen)
    return run


def _linked(arm, compared):
    """The arms that pairs link with an arm, by way of others too."""
    found: set[str] = set()
    new = {arm}
    while new:
        found |= new
        new = {each for pair in compared if found & {*pair} for each in pair} - found
    return found


def train_all(runs, jobs, folder, logs=None):
    """Trains runs, `jobs` at once; yields, as each ends, where its output is if it failed.

    What there is to say of a run is collected in `logs`, if that is given.
    """
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    processes: list[subprocess.Popen] = []
    try:
        trainings = [pool.submit(_train, run, folder, logs, processes) for run in runs]
        for training in concurrent.futures.as_completed(trainings):
            yield training.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # a training that is stopped can be resumed
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _train(run, folder, logs, processes):
    """Trains one run and collects its log in `logs`; returns where its output is if it failed.

    What trains it is appended to `processes`.
    """
    run_dir = folder / run.name
    if not is_trained(run, run_dir):
        command = run.command(folder)
        print(shlex.join(command), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{run.name}.txt"
        with open(output, "a") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent
            )
            processes.append(process)
            if process.wait():
                return str(output)
    if logs:
        measures.collect(run_dir, logs)
    return None


#: Of Linux alone: there a process can ask to be killed when the one that began it is.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent():
    """So that a training whose study was killed does not keep the next one out of its directory."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def is_trained(run, run_dir):
    """Whether a directory holds a finished run; raises ValueError where it is of another."""
    trained = (run_dir / config.WEIGHTS_FILE).exists()
    return trained and _holds(run_dir / config.CONFIG_FILE, run_dir / callbacks.LOG_FILE, run)


def is_done(run, logs):
    """Whether `logs` hold all epochs of a run.

    Raises:
        ValueError: If what they hold under its name is of another run, or was cut off in a row.
    """
    settings, log = logs / f"{run.name}.json", logs / f"{run.name}.csv"
    return settings.exists() and log.exists() and _holds(settings, log, run)


def _holds(settings, log, run):
    """Whether a log has all epochs of a run; its config must be that of the run."""
    config.check_same(settings, config.read(settings)[0], config.Config(**run.arguments))
    return len(callbacks.read_log(log)) >= run.arguments["epochs"]
