"""Kills programs at random moments and runs them again, until nothing is left to do.

    python tests/kill.py --kills 100 [--scenarios w1 w1a1 ...] [--seed 0] [--log FILE]

Every scenario is a program that is first run once without being disturbed, and then again and again
under SIGKILL, at random times: a quarter of them anywhere in its life, imports included, the others
after it has begun to write; these are forked from a process that has imported everything. What it
leaves behind in the end must be the same, to the last bit: weights, log, gates, files for devices.
Whatever bears a final name in between must be whole.
"""

import argparse
import dataclasses
import hashlib
import multiprocessing
import os
import pathlib
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver")
NEW = multiprocessing.get_context("spawn")  # imports everything itself
FORKS.set_forkserver_preload(["larq_seresnet.training.train", "larq_seresnet.export.convert"])
DIGITS = (
    "--dataset digits --limit-train 256 --limit-test 50 --batch-size 64 --filters 4 4 8 "
    "--compute-dtype float32 --deterministic --epochs 3 --gate-epochs 2"
).split()


def main(argv=None):
    """Runs the scenarios; returns by scenario how many kills it took and where they fell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="in all (default: 10)")
    parser.add_argument("--scenarios", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--log", type=pathlib.Path, metavar="FILE", help="append what is printed")
    arguments = parser.parse_args(argv)
    generator = np.random.default_rng(arguments.seed)
    counts = [
        len(part) for part in np.array_split(range(arguments.kills), len(arguments.scenarios))
    ]
    found = {}
    for name, kills in zip(arguments.scenarios, counts, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(SCENARIOS[name], kills, generator, pathlib.Path(folder))
        line = f"{name}: {found[name]}"
        print(line, flush=True)
        if arguments.log:
            with open(arguments.log, "a") as log:
                log.write(f"{line}\n")
    return found


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A program that is killed.

    Attributes:
        command: From a folder of its own and one that is prepared: words of its command line, the
            same each time.
        prepare: Makes what the program needs in a folder, once.
        left: From a folder of its own: by name what the program left there, comparable.
        whole: Names in the folder that, if there, must be as they are in the end.
    """

    command: Callable[[pathlib.Path, pathlib.Path], list[str]]
    left: Callable[[pathlib.Path], dict[str, object]]
    prepare: Callable[[pathlib.Path], None] = lambda folder: None
    whole: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Killed:
    """What a scenario went through.

    Attributes:
        kills: How many SIGKILLs met a living process.
        files: Files that there were when it was killed, by their number: how far it had come.
        seconds: That it takes undisturbed.
    """

    kills: int
    files: dict[int, int]
    seconds: float

    def __str__(self):
        met = ", ".join(f"{count} with {number} files" for number, count in self.files.items())
        return f"{self.kills} kills ({met}) of a life of {self.seconds:.0f} s: nothing was lost"


def run(scenario, kills, generator, folder):
    """Kills a scenario's program so many times, lets it end, and compares.

    Raises:
        AssertionError: If something was lost.
    """
    prepared, expected, killed = (folder / name for name in ("prepared", "expected", "killed"))
    for each in (prepared, expected, killed):
        each.mkdir()
    scenario.prepare(prepared)
    began = time.monotonic()
    process = _begin(scenario.command(expected, prepared))
    _wait_for_a_change(process, expected)
    wrote = time.monotonic()
    _end(process)
    seconds, writing = time.monotonic() - began, time.monotonic() - wrote
    wanted = scenario.left(expected)
    assert wanted, "the scenario leaves nothing to compare"
    met, files = 0, {}
    while met < kills:
        anywhere = generator.random() < 0.25
        process = _begin(scenario.command(killed, prepared), NEW if anywhere else FORKS)
        if not anywhere:
            _wait_for_a_change(process, killed)
        process.join(generator.uniform(0, seconds if anywhere else writing))
        if process.exitcode is not None:
            _end(process)
            shutil.rmtree(killed)  # it was done: from the beginning
            killed.mkdir()
            continue
        process.kill()
        process.join()
        met += process.exitcode == -signal.SIGKILL
        number = sum(path.is_file() for path in killed.rglob("*"))
        files[number] = files.get(number, 0) + 1
        for name in scenario.whole:
            if (killed / name).exists():
                assert (killed / name).read_bytes() == (expected / name).read_bytes(), name
    _finish(scenario.command(killed, prepared))
    received = scenario.left(killed)
    assert received.keys() == wanted.keys()
    for name, value in wanted.items():
        assert received[name] == value, f"{name} is another after {met} kills"
    left = [path.name for path in killed.rglob("*.part")]
    assert not left, f"{left} were left behind"
    return Killed(met, dict(sorted(files.items())), seconds)


def _begin(words, processes=FORKS):
    process = processes.Process(target=_program, args=([str(word) for word in words],))
    process.start()
    return process


def _program(words):
    """What `python WORDS` would do, from the root of the checkout and in silence."""
    os.chdir(ROOT)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _wait_for_a_change(process, folder):
    """Until the process has written something into a folder, or ended."""

    def seen():
        return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.exists()}

    before = seen()
    while process.is_alive():
        try:
            if seen() != before:
                return
        except FileNotFoundError:  # between two looks at a file
            return
        time.sleep(0.01)


def _finish(words):
    _end(_begin(words))


def _end(process):
    process.join()
    assert process.exitcode == 0, "the program failed: what it said is above"


def _left_by_training(folder):
    """Weights, log without what the clock says, and gate records of all runs in a folder."""
    found: dict[str, object] = {}
    for config in sorted(folder.rglob("config.json")):
        run_dir = config.parent
        name = run_dir.relative_to(folder)
        found |= {f"{name}/{path}": values for path, values in _arrays(run_dir / "weights.h5")}
        rows = [row.split(",") for row in (run_dir / "log.csv").read_text().splitlines()]
        clock = [at for at, title in enumerate(rows[0]) if "second" in title]
        found[f"{name}/log.csv"] = [
            [cell for at, cell in enumerate(row) if at not in clock] for row in rows
        ]
        if (run_dir / "gates.npz").exists():
            with np.load(run_dir / "gates.npz") as gates:
                found |= {f"{name}/gates/{key}": gates[key].tobytes() for key in gates.files}
    return found


def _arrays(path):
    """What an HDF5 file holds: pairs of a name and bytes."""
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        items = [(name, file[name]) for name in names]
        return [
            (name, each[()].tobytes()) for name, each in items if isinstance(each, h5py.Dataset)
        ]


def _digests(*patterns):
    def left(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns
            for path in sorted(folder.rglob(pattern))
        }

    return left


def _training(*flags):
    def command(folder, prepared):
        return ["training/train.py", *DIGITS, *flags, "--run-dir", folder / "run", "--resume"]

    return Scenario(command, _left_by_training)


def _trained(*flags):
    """Prepares a finished run."""
    return lambda folder: _finish(
        ["training/train.py", *DIGITS, *flags, "--run-dir", folder / "run"]
    )


def _trained_on_all(folder):
    """Prepares a run that may ship."""
    flags = "--dataset digits --epochs 1 --filters 4 4 8 --compute-dtype float32".split()
    _finish(["training/train.py", *flags, "--run-dir", folder / "run"])


def _images(folder):
    """Prepares a folder of photographs, too many for the memory that the program is told it has."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (folder / "images" / label).mkdir(parents=True)
        for index in range(40):
            pixels = generator.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{index}.png")


def _streamed(folder, prepared):
    """Training on a folder of images that are read from a file, as there is no memory for them."""
    code = "from larq_seresnet.training import data, train; data.SHARE_OF_MEMORY = 0; train.main()"
    flags = [*DIGITS, "--dataset", prepared / "images", "--limit-train", "60"]
    return ["-c", code, *flags, "--limit-test", "16", "--run-dir", folder / "run", "--resume"]


def _taught(folder, prepared):
    """Training with a teacher of its own, whose answers are not written yet when it begins."""
    if not (folder / "teacher").exists():
        shutil.copytree(prepared / "run", folder / "teacher")
    return _training("--teacher", folder / "teacher").command(folder, prepared)


def _reproduce(folder, prepared):
    words = "--profile smoke --arms sigmoid_fmb no_se --runs-dir".split()
    return ["training/reproduce.py", *words, folder / "runs", "--out-dir", folder / "out"]


def _ship(folder, prepared):
    """Into folders that stand for those of the checkout."""
    code = (
        "import pathlib, sys; from larq_seresnet.training import ship; "
        "ship.PACKAGE, ship.LOGS = map(pathlib.Path, sys.argv[1:3]); ship.main(sys.argv[3:])"
    )
    return ["-c", code, folder / "weights", folder / "logs", prepared / "run"]


def _convert(folder, prepared):
    return ["export/convert.py", prepared / "run", "--strip", "--out-dir", folder]


def _prune(folder, prepared):
    return ["export/prune.py", prepared / "run", "--out-dir", folder / "pruned"]


SCENARIOS = {
    "w1": _training(),
    "w1a1": _training("--precision", "w1a1"),
    "closing": _training("--gate-at", "middle", "--keep", "0.5"),
    "taught": Scenario(_taught, _left_by_training, _trained("--attention", "none")),
    "streamed": Scenario(_streamed, _left_by_training, _images),
    "reproduce": Scenario(_reproduce, _left_by_training),
    "convert": Scenario(
        _convert,
        _digests("*.tflite", "labels.txt"),
        _trained(),
        ("lce_1bit.tflite", "labels.txt"),
    ),
    "ship": Scenario(_ship, _digests("*.npz", "*.csv", "README.md"), _trained_on_all),
    "prune": Scenario(
        _prune, _digests("weights.h5"), _trained("--gate-at", "middle", "--keep", "0.5")
    ),
}

if __name__ == "__main__":
    main()
