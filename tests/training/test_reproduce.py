import dataclasses
import errno
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import config, reproduce, train
from larq_seresnet.training.study import paper, runs

ROOT = pathlib.Path(__file__).parents[2]
#: Profiles of the paper's own training.
PAPERS = ("tuning", "smoke", "short", "full")


def test_every_arm_is_a_config_and_seeds_are_paired():
    for name, profile in reproduce.PROFILES.items():
        assert len({run.name for run in profile.runs}) == len(profile.runs)
        for run in profile.runs:
            settings = config.Config(**run.arguments)
            assert settings.recipe == ("plain" if name in PAPERS else "fast")
    short = {run.name: run.arguments for run in reproduce.PROFILES["short"].runs}
    assert {name.rsplit("_seed", 1)[0] for name in short} == set(paper.ARMS)
    assert short["sigmoid_seed2"]["epochs"] == short["no_se_seed0"]["epochs"] == 25
    assert short["tanh_fmb_seed1"]["epochs"] == 10
    assert "w1a1_tanh_seed2" not in short
    assert short["tanh_fmb_seed0"]["fmb_gradient"] == "none"
    assert short["tanh_fmb_through_seed0"]["fmb_gradient"] == "straight_through"


@pytest.mark.slow
def test_every_network_that_is_planned_can_be_made():
    networks = {}
    for profile in reproduce.PROFILES.values():
        for run in profile.planned(profile.results / profile.logs):
            arguments = config.Config(**run.arguments).model_arguments()
            networks[repr(arguments)] = arguments
    for arguments in networks.values():
        assert SEResNet14(weights=None, **arguments).count_params() > 0


def test_rates_are_chosen_on_held_out_images():
    for run in reproduce.PROFILES["tuning"].runs:
        assert run.arguments["held_out"] == 5000
    chosen = config.RECIPES["plain"].learning_rate
    assert chosen in paper.RATES


def test_commands_are_what_train_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run was begun
    reproduce.main(["--profile", "short", "--print-commands", "--out-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(reproduce.PROFILES["short"].runs)
    words = shlex.split(lines[0])
    assert words[1].endswith("train.py")
    assert words[2:] == shlex.split(
        "--shortcut conv --head bias --schedule constant --attention se_paper "
        "--fmb-gradient none --activation sigmoid --no-fmb --recipe plain "
        "--epochs 25 --seed 0 --dataset cifar10 --run-dir runs/paper/sigmoid_seed0 --resume"
    )


def test_what_is_done_is_skipped_and_what_is_wrong_is_said(tmp_path, capsys, write_log):
    run = reproduce.PROFILES["short"].runs[0]
    assert not runs.is_done(run, tmp_path)
    write_log(tmp_path, run, 24)
    assert not runs.is_done(run, tmp_path)
    write_log(tmp_path, run, 25)
    assert runs.is_done(run, tmp_path)
    write_log(tmp_path, run, 25, compute_dtype="bfloat16", flip=True)
    assert runs.is_done(run, tmp_path)
    for changed, message in (
        ({"activation": "tanh"}, "is of another grid: `activation` is 'tanh' there"),
        ({"learning_rate": 0.5}, "is of another grid: `learning_rate` is 0.5 there, 0.01 here"),
        ({"held_out": 5000}, "is of another grid: `held_out` is 5000 there, None here"),
        ({"attention": None}, "is of another grid: `attention` is None there, 'se_paper' here"),
    ):
        write_log(tmp_path, run, 25, **changed)
        with pytest.raises(ValueError, match=message):
            runs.is_done(run, tmp_path)
    write_log(tmp_path, run, 25)
    with open(tmp_path / f"{run.name}.csv", "a") as file:
        file.write("26,0.01,1")
    with pytest.raises(ValueError, match="a row that was cut off"):
        runs.is_done(run, tmp_path)
    for arguments, message in (
        (["--arms", "sigmoid", "relu"], "received 'relu'"),
        (["--arms", "relu", "--report-only"], "received 'relu'"),
        (["--jobs", "0"], "--jobs must be at least 1, received 0"),
        (["--report-only"], f"--report-only needs logs, {tmp_path / 'logs'} holds none"),
        (["--report-only", "--print-commands"], "not allowed with argument"),
    ):
        with pytest.raises(SystemExit) as stop:
            reproduce.main([*arguments, "--out-dir", str(tmp_path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def _dtypes(profile, folder):
    planned = reproduce.PROFILES[profile].planned(folder)
    return {run.name: run.arguments.get("compute_dtype") for run in planned}


def test_runs_compute_as_those_they_are_compared_with(tmp_path, write_log):
    """Left to another machine they might not, and be no pair after hours of training."""
    named = {run.name: run for run in reproduce.PROFILES["goals"].runs}
    for name, dtype in (("fmb_budget25_seed0", "float32"), ("fmb_budget25_seed1", "bfloat16")):
        write_log(tmp_path, named[name], 25, compute_dtype=dtype)
    found = _dtypes("goals", tmp_path)
    assert found["soft_budget25_seed0"] == found["no_se_budget25_seed0"] == "float32"
    assert found["soft_budget25_seed1"] == "bfloat16"
    assert found["soft_budget25_seed2"] in ("float32", "bfloat16")  # as one of other seeds
    assert found["soft_budget6_seed0"] is None
    folder = tmp_path / "pruning"
    named = {run.name: run for run in reproduce.PROFILES["pruning"].runs}
    for name, dtype in (("whole_budget25_seed0", "float32"), ("by_hand_16kb_budget25_seed0", "x")):
        write_log(folder, named[name], 25, compute_dtype="float32" if dtype != "x" else "bfloat16")
    found = _dtypes("pruning", folder)
    assert found["by_hand_budget25_seed0"] == "float32"  # by way of the closed one
    assert found["closed_16kb_budget25_seed0"] == "bfloat16"
    assert found["closed_20kb_budget25_seed0"] is None


def test_where_the_rate_is_constant_runs_of_other_lengths_are_compared(tmp_path, write_log):
    """Epoch by epoch, as far as both go."""
    run = next(run for run in reproduce.PROFILES["full"].runs if run.name == "sigmoid_seed3")
    write_log(tmp_path, run, run.arguments["epochs"], compute_dtype="bfloat16")
    found = _dtypes("full", tmp_path)
    assert {found[f"{arm}_seed3"] for arm in ("tanh", "tanh_fmb", "no_se")} == {"bfloat16"}
    assert found["tanh_seed2"] == "bfloat16"  # as the other seed


def test_a_full_disk_is_not_bad_input(tmp_path, monkeypatch, capsys):
    def planned(self, logs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reproduce.Profile, "planned", planned)
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--out-dir", str(tmp_path)])
    assert stop.value.code == 1
    assert "No space left on device" in capsys.readouterr().err


def test_rates_can_be_tried_before_anything_else(tmp_path, write_log):
    """The report is of what they are chosen for; there is none as yet."""
    write_log(tmp_path / "tuning", reproduce.PROFILES["tuning"].runs[0], 10)
    reproduce.main(["--profile", "tuning", "--report-only", "--out-dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["tuning"]


def test_a_run_directory_of_another_grid_is_refused(trained, tmp_path, capsys):
    first = reproduce.PROFILES["smoke"].runs[0]
    shutil.copytree(trained("w1"), tmp_path / first.name)
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--profile", "smoke", "--arms", first.arm, *folders])
    assert stop.value.code == 2
    assert f"{first.name}/config.json is of another grid" in capsys.readouterr().err


def test_what_is_stopped_takes_its_trainings_with_it(tmp_path, monkeypatch):
    """Or they would go on, and keep those that are begun again out of their directories."""
    run = reproduce.PROFILES["smoke"].runs[0]
    monkeypatch.setattr(
        runs.Run, "command", lambda run, folder: [sys.executable, "-c", SLEEPS, str(tmp_path)]
    )
    trainings = runs.train_all([run, run], 2, tmp_path / "runs", tmp_path / "logs")

    def stopped(futures):
        while len(list(tmp_path.glob("*.pid"))) < 2:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.concurrent.futures, "as_completed", stopped)
    with pytest.raises(KeyboardInterrupt):
        next(trainings)
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells a process")
def test_what_is_killed_takes_its_trainings_with_it(tmp_path):
    """SIGKILL, after which it can tell them nothing."""
    code = (
        "import pathlib, sys; from larq_seresnet.training.study import runs\n"
        f"runs.Run.command = lambda *_: [sys.executable, '-c', {SLEEPS!r}, {str(tmp_path)!r}]\n"
        "run = runs.Run('sigmoid_seed0', {})\n"
        f"list(runs.train_all([run], 1, pathlib.Path({str(tmp_path)!r}), pathlib.Path('logs')))"
    )
    study = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (found := list(tmp_path.glob("*.pid"))):
        assert study.poll() is None
        time.sleep(0.05)
    study.kill()
    study.wait()
    for _ in range(100):
        if not pathlib.Path(f"/proc/{found[0].stem}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the training goes on")


SLEEPS = """
import os, pathlib, sys, time
(pathlib.Path(sys.argv[1]) / f"{os.getpid()}.pid").touch()
time.sleep(60)
"""


def test_a_run_that_fails_is_named_and_the_others_are_kept(trained, tmp_path, monkeypatch, capsys):
    """Two of three trainings fail, the first and the last; the second is done already."""
    first, second, third = reproduce.PROFILES["smoke"].runs[:3]
    profile = reproduce.Profile([first, second, third], lambda results: drawn.append(results))
    monkeypatch.setitem(reproduce.PROFILES, "smoke", profile)
    monkeypatch.setattr(runs, "is_trained", lambda run, run_dir: run.name == second.name)
    shutil.copytree(trained("w1"), tmp_path / "runs" / second.name)
    command = [sys.executable, "-c", "exit('no disk')"]
    monkeypatch.setattr(runs.Run, "command", lambda run, folder: command)
    drawn: list = []
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--profile", "smoke", "--jobs", "2", *folders])
    assert "2 runs failed" in stop.value.code
    for run in (first, third):
        assert f"{run.name}.txt" in stop.value.code
        assert "no disk" in (tmp_path / "runs" / f"{run.name}.txt").read_text()
    assert drawn == [tmp_path / "out"]
    assert (tmp_path / "out" / "logs" / f"{second.name}.csv").exists()


def test_a_teacher_is_trained_before_those_it_teaches(tmp_path, monkeypatch, capsys):
    """And no more once it is there, nor for runs that have none."""
    monkeypatch.chdir(tmp_path)
    reproduce.main(["--profile", "goals", "--print-commands"])
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    settings, run_dir = train.parsed(commands[0][2:])
    assert (settings.precision, str(run_dir)) == ("float32", "runs/teacher")
    taught = [train.parsed(each[2:])[0].teacher for each in commands[1:]]
    assert set(taught) == {"runs/teacher", None}
    reproduce.main(["--profile", "goals", "--print-commands", "--arms", "fmb_budget1"])
    assert "runs/teacher" not in capsys.readouterr().out
    monkeypatch.setattr(runs, "is_trained", lambda run, run_dir: run.name == "teacher")
    reproduce.main(["--profile", "goals", "--print-commands"])
    assert len(capsys.readouterr().out.splitlines()) == len(commands) - 1


def test_runs_that_follow_from_others_come_after_them(trained, tmp_path, monkeypatch):
    """Widths that a training finds are trained by the same command; what failed only once."""
    first, second, third = reproduce.PROFILES["smoke"].runs[:3]

    def following(logs):
        return [first, third] + [second] * (logs / f"{first.name}.csv").exists()

    profile = reproduce.Profile([first, third], lambda results: None, following=following)
    monkeypatch.setitem(reproduce.PROFILES, "smoke", profile)
    asked = []

    def train_all(missing, jobs, folder, logs=None):
        asked.extend([[run.name for run in missing]] * bool(missing))
        return (runs._train(run, folder, logs, []) for run in missing)

    monkeypatch.setattr(runs, "train_all", train_all)
    monkeypatch.setattr(runs, "is_trained", lambda run, run_dir: run.name != third.name)
    monkeypatch.setattr(
        runs.Run, "command", lambda run, folder: [sys.executable, "-c", "exit('no disk')"]
    )
    for run in (first, second):
        shutil.copytree(trained("w1"), tmp_path / "runs" / run.name)
    monkeypatch.setattr(runs, "is_done", lambda run, logs: (logs / f"{run.name}.csv").exists())
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match="1 runs failed"):
        reproduce.main(["--profile", "smoke", *folders])
    assert asked == [[first.name, third.name], [second.name]]


class _InThisProcess:
    """Runs train.py's commands as `subprocess` would, without loading TensorFlow for each."""

    STDOUT = subprocess.STDOUT

    class Popen:
        def __init__(self, command, **options):
            assert command[1].endswith("train.py")
            self.flags = command[2:]

        def wait(self):
            train.main(self.flags)
            return 0


@pytest.mark.slow
def test_the_smoke_profile_from_training_to_report(tmp_path, monkeypatch, capsys):
    """Two arms of it, cut off after the first; then the report alone, from the logs alone."""
    arms = ["--arms", "sigmoid", "sigmoid_fmb"]
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")]
    first, *others = (run for run in reproduce.PROFILES["smoke"].runs if run.arm in arms)
    others = [run for run in others if run.name != "sigmoid_fmb_seed1"]
    smoke = reproduce.PROFILES["smoke"]
    monkeypatch.setitem(reproduce.PROFILES, "smoke", dataclasses.replace(smoke, runs=[first]))
    reproduce.main(["--profile", "smoke", *folders])
    monkeypatch.setattr(runs, "subprocess", _InThisProcess)
    kept = (tmp_path / "out" / "logs" / f"{first.name}.csv").stat().st_mtime_ns
    monkeypatch.setitem(
        reproduce.PROFILES, "smoke", dataclasses.replace(smoke, runs=[first, *others])
    )
    reproduce.main(["--profile", "smoke", *arms, *folders])
    assert "1 of 3 runs are done" in capsys.readouterr().err
    assert (tmp_path / "out" / "logs" / f"{first.name}.csv").stat().st_mtime_ns == kept
    names = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = ("occupancy", *(f"figure{n:02d}" for n in range(3, 11)))
    figures = {f"{figure}.{end}" for figure in drawn for end in ("png", "svg")}
    assert names == {"logs", "report.md", "summary.csv", *figures}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| sigmoid + FMB | 44.64% | not run | not run |" in report  # of epoch 9
    assert "Data set digits, 256 training and 256 test images" in report
    assert "| sigmoid | 23 | >2, >2 |" in report
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out" / "logs", again / "logs")
    reproduce.main(["--report-only", "--out-dir", str(again)])
    # two halves, as two machines train them, brought together in one folder
    merged = tmp_path / "merged"
    for machine in ([first], others):
        for run in machine:
            shutil.copytree(tmp_path / "runs" / run.name, merged / "runs" / run.name)
    folders = ["--out-dir", str(merged / "out"), "--runs-dir", str(merged / "runs")]
    monkeypatch.setattr(runs, "subprocess", None)  # nothing is trained
    reproduce.main(["--profile", "smoke", *folders])
    for name in ("report.md", "summary.csv", "figure09.svg"):
        for other in (again, merged / "out"):
            assert (other / name).read_text() == (tmp_path / "out" / name).read_text()


def test_the_committed_reports_are_those_of_the_committed_logs(tmp_path):
    reports = shutil.ignore_patterns("*.png", "*.svg", "README.md", "report.md", "summary.csv")
    shutil.copytree(ROOT / "results" / "device", tmp_path / "device", ignore=reports)
    for name in ("short", "ablation", "frontier", "goals", "spatial", "pruning"):
        committed, drawn = ROOT / reproduce.PROFILES[name].results, tmp_path / name
        if not committed.exists():
            continue  # nothing of it has been trained yet
        shutil.copytree(committed, drawn, ignore=reports)
        reproduce.main(["--profile", name, "--report-only", "--out-dir", str(drawn)])
        assert {path.name for path in committed.iterdir()} == {
            each.name for each in drawn.iterdir()
        }
        for path in (each for each in drawn.glob("*.*") if each.suffix != ".png"):
            assert path.read_text() == (committed / path.name).read_text()
