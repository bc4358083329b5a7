"""Trains what `export.py` lowered, many runs at once; needs JAX and NumPy alone.

    python3 lowered/run.py lowered trained [--processes 16] [--seconds 500] [--graphs]

Each process takes the next run of runs.json, compiles its program and trains. A run that is
finished is one file in the folder `trained`, one that time ended is `.part.npz` there, and goes on
where this is called again. One call at a time may have a folder.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import compiled
import fit

RUNS_FILE = "runs.json"


def main():
    """Trains in processes of their own, until all is done or time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lowered", type=pathlib.Path, help="what export.py wrote")
    parser.add_argument("trained", type=pathlib.Path, help="folder of what is finished")
    parser.add_argument("--processes", type=int, default=1, help="how many train at once")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no epoch after so many")
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="make each epoch one CUDA graph: fewer cores are busy; a run that cannot be captured "
        "is trained without",
    )
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.processes < 1:
        parser.error(f"--processes must be at least 1, received {given.processes}")
    given.trained.mkdir(parents=True, exist_ok=True)
    if given.until:
        _work(given.lowered, given.trained, given.until, given.graphs)
        return
    for stale in (*given.trained.glob("*.claim"), *given.trained.glob("*.failed")):
        stale.unlink()
    until = time.time() + given.seconds
    command = [sys.executable, __file__, given.lowered, given.trained, "--until", str(until)]
    command += ["--graphs"] * given.graphs
    autotune = given.trained.absolute() / "autotune"
    autotune.mkdir(exist_ok=True)
    first_chooses = not any(autotune.iterdir())
    workers = []
    for number in range(given.processes):
        with open(given.trained / f"process{number:02d}.txt", "a") as output:
            before = output.tell()
            workers.append(
                subprocess.Popen(
                    list(map(str, command)),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(autotune, given.graphs),
                )
            )
        if number == 0 and first_chooses:
            _wait_for_compiled(workers[0], pathlib.Path(output.name), before)
    while None in [worker.poll() for worker in workers]:  # or those that were killed seem to live
        time.sleep(0.5)
    failed = _failed(given.trained, workers)
    if failed or any(worker.returncode for worker in workers):
        sys.exit(f"failed: {failed or 'processes'}; why stands in {given.trained}/process*.txt")


def _failed(trained, workers):
    """The runs that say so, and those in whose training a process was killed."""
    killed = {str(worker.pid) for worker in workers if worker.returncode}
    cut_off = {
        claim.stem
        for claim in trained.glob("*.claim")
        if claim.read_text() in killed and not claim.with_suffix(".npz").exists()
    }
    return sorted(cut_off | {path.stem for path in trained.glob("*.failed")})


def _environment(autotune, graphs):
    """One accelerator for many: no process takes all of its memory, and what one has found to be
    its fastest algorithms the others know. Kernels cannot be loaded while a graph is captured, so
    with graphs all are loaded at the start."""
    flags = f"--xla_gpu_per_fusion_autotune_cache_dir={autotune} --xla_gpu_enable_triton_gemm=false"
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_X64": "1",  # the optimizer counts in 64 bits
        **({"CUDA_MODULE_LOADING": "EAGER"} if graphs else {}),
        **os.environ,
        "XLA_FLAGS": f"{flags} {os.environ.get('XLA_FLAGS', '')}",
    }


def _wait_for_compiled(worker, output, before):
    """Until the first process has compiled: then the others find algorithms that are chosen."""
    while worker.poll() is None and "compiled" not in output.read_text()[before:]:
        time.sleep(0.2)


def _work(lowered, trained, until, graphs):
    """Trains one run after another that no other process has claimed."""
    entries = json.loads((lowered / RUNS_FILE).read_text())
    images, programs, again = fit.Images(lowered), {}, None
    while time.time() < until:
        entry, again = again or _claim(entries, lowered, trained, programs), None
        if entry is None:
            return
        key = entry["program"]
        try:
            if key not in programs:
                programs.clear()  # one at a time: executables take memory
                programs[key] = compiled.Program(lowered / key, graphs)
            if _is_taught(entry, lowered, trained, until):
                fit.Run(entry, programs[key], images, trained).train(until)
        except Exception as problem:  # the others go on
            print(f"{entry['name']} failed: {problem!r}", flush=True)
            if graphs and not isinstance(problem, ValueError):
                graphs, again = False, entry  # it may be that a convolution cannot be captured
                programs.clear()
            else:
                (trained / f"{entry['name']}.failed").touch()


def _claim(entries, lowered, trained, programs):
    """The next run that can be trained, None if there is none.

    Runs of a program that is compiled come first, those that wait for their teacher last.
    """

    def waits(entry):
        if not entry["teacher"]:
            return False
        return not fit.said_by(entry["teacher"], lowered, trained).exists()

    for entry in sorted(entries, key=lambda each: (waits(each), each["program"] not in programs)):
        place = trained / f"{entry['name']}.npz"
        if place.exists():
            continue
        try:
            with open(place.with_suffix(".claim"), "x") as claim:
                claim.write(str(os.getpid()))
        except FileExistsError:
            continue
        return entry
    return None


def _is_taught(entry, lowered, trained, until):
    """Whether all is there that a run needs; waits for its teacher until a time."""
    if not entry["teacher"]:
        return True
    said = fit.said_by(entry["teacher"], lowered, trained)
    failed, claim = (trained / f"{entry['teacher']}.{ending}" for ending in ("failed", "claim"))
    while not said.exists():
        if time.time() > until:
            return False
        if failed.exists() or not claim.exists() or not _lives(int(claim.read_text() or 0)):
            raise ValueError(f"its teacher {entry['teacher']} said nothing and is not in training")
        time.sleep(0.5)
    return True


def _lives(process):
    """Whether a process is there; 0, one that has not said its number yet, is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
