import dataclasses
import json
import pathlib
import shlex
import shutil
import sys

import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import (
    ablation,
    callbacks,
    claims,
    config,
    goals,
    grid,
    measures,
    reproduce,
    runs,
    tables,
)

ROOT = pathlib.Path(__file__).parents[2]


def test_every_arm_is_a_config_and_seeds_are_paired():
    for name, profile in reproduce.PROFILES.items():
        assert len({run.name for run in profile.runs}) == len(profile.runs)
        for run in profile.runs:
            settings = config.Config(**run.arguments)
            assert settings.recipe == ("fast" if name in ("recipe", "fast") else "plain")
    short = {run.name: run.arguments for run in reproduce.PROFILES["short"].runs}
    assert {name.rsplit("_seed", 1)[0] for name in short} == set(reproduce.ARMS)
    assert short["sigmoid_seed2"]["epochs"] == short["no_se_seed0"]["epochs"] == 25
    assert short["tanh_fmb_seed1"]["epochs"] == 10
    assert "w1a1_tanh_seed2" not in short
    assert short["tanh_fmb_seed0"]["fmb_gradient"] == "none"
    assert short["tanh_fmb_through_seed0"]["fmb_gradient"] == "straight_through"


def test_rates_are_chosen_on_held_out_images():
    for run in reproduce.PROFILES["tuning"].runs:
        assert run.arguments["held_out"] == 5000
    chosen = config.RECIPES["plain"].learning_rate
    assert chosen in reproduce.RATES


def test_commands_are_what_train_takes(tmp_path, capsys):
    reproduce.main(["--profile", "short", "--print-commands", "--out-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(reproduce.PROFILES["short"].runs)
    words = shlex.split(lines[0])
    assert words[1].endswith("train.py")
    assert words[2:] == shlex.split(
        "--shortcut conv --head bias --attention se_paper --fmb-gradient none --activation sigmoid "
        "--no-fmb --recipe plain "
        "--epochs 25 --seed 0 --dataset cifar10 --run-dir runs/paper/sigmoid_seed0"
    )


def _write(logs, run, rows, error=0.5, **changed):
    logs.mkdir(exist_ok=True)
    arguments = {**vars(config.Config(**run.arguments)), **changed}
    facts = {"train_images": 50000, "test_images": 10000}
    (logs / f"{run.name}.json").write_text(json.dumps({"arguments": arguments, **facts}))
    lines = [",".join(callbacks.LOG_COLUMNS)]
    lines += [f"{epoch + 1},0.01,1,{error},1,{error},9,9,cifar10" for epoch in range(rows)]
    (logs / f"{run.name}.csv").write_text("\n".join(lines) + "\n")


def test_what_is_done_is_skipped_and_what_is_wrong_is_said(tmp_path, capsys):
    run = reproduce.PROFILES["short"].runs[0]
    assert not runs.is_done(run, tmp_path)
    _write(tmp_path, run, 24)
    assert not runs.is_done(run, tmp_path)
    _write(tmp_path, run, 25)
    assert runs.is_done(run, tmp_path)
    _write(tmp_path, run, 25, compute_dtype="bfloat16", flip=True)
    assert runs.is_done(run, tmp_path)
    for changed, message in (
        ({"activation": "tanh"}, "is of another grid: `activation` is 'tanh' there"),
        ({"learning_rate": 0.5}, "is of another grid: `learning_rate` is 0.5 there, 0.01 here"),
        ({"held_out": 5000}, "is of another grid: `held_out` is 5000 there, None here"),
        ({"attention": None}, "is of another grid: `attention` is None there, 'se_paper' here"),
    ):
        _write(tmp_path, run, 25, **changed)
        with pytest.raises(ValueError, match=message):
            runs.is_done(run, tmp_path)
    _write(tmp_path, run, 25)
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


def test_a_run_directory_of_another_grid_is_refused(trained, tmp_path, capsys):
    first = reproduce.PROFILES["smoke"].runs[0]
    shutil.copytree(trained("w1"), tmp_path / first.name)
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--profile", "smoke", "--arms", first.arm, *folders])
    assert stop.value.code == 2
    assert f"{first.name}/config.json is of another grid" in capsys.readouterr().err


def test_a_run_that_was_begun_goes_on_and_half_a_directory_is_overwritten(tmp_path):
    run = reproduce.PROFILES["smoke"].runs[0]
    assert run.command(tmp_path)[-2:] == ["--run-dir", str(tmp_path / run.name)]
    (tmp_path / run.name).mkdir()
    assert run.command(tmp_path)[-1] == "--overwrite"
    (tmp_path / run.name / "checkpoint").mkdir()
    (tmp_path / run.name / "checkpoint" / "checkpoint").touch()
    assert run.command(tmp_path)[-1] == "--resume"


def test_a_run_that_fails_is_named_and_the_others_are_kept(trained, tmp_path, monkeypatch, capsys):
    """Two of three trainings fail, the first and the last; the second is done already."""
    first, second, third = reproduce.PROFILES["smoke"].runs[:3]
    profile = reproduce.Profile([first, second, third], lambda results: drawn.append(results))
    monkeypatch.setitem(reproduce.PROFILES, "smoke", profile)
    monkeypatch.setattr(runs, "_is_trained", lambda run, run_dir: run is second)
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


def test_measures_of_a_run(trained):
    found = measures.measure(trained("w1"))
    (epoch,) = found["gates"]
    assert epoch == "1"
    modules = found["gates"]["1"]
    assert len(modules) == 6
    with np.load(trained("w1") / "gates.npz") as records:
        gates = records["epoch001/stage3_block2_fmb"]
    last = modules["stage3_block2_se"]
    assert last["channels"] == 16
    assert last["open"] == pytest.approx(gates.mean())
    assert last["never_open"] == (gates.max(axis=0) == 0).sum()
    assert last["always_open"] == (gates.min(axis=0) == 1).sum()
    for when in ("initial", "final"):
        gradients = found["gradients"][when]
        assert len(gradients) == 26
        assert all(value > 0 for value in gradients.values())
    assert found["gradients"]["initial"] != found["gradients"]["final"]


def test_literal_fmb_lets_no_gradient_through():
    model = SEResNet14(filters=(4, 8, 16), attention="se_paper", fmb_gradient="none", weights=None)
    gradients = measures._rms_gradients(
        model, np.random.default_rng(0).normal(size=(8, 32, 32, 3)), np.arange(8)
    )
    assert all((value == 0) == ("_se/" in name) for name, value in gradients.items())


def test_collected_logs_are_small_and_whole(trained, tmp_path):
    measures.collect(trained("w1"), tmp_path)
    name = trained("w1").name
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"{name}{end}" for end in (".csv", ".json", ".npz", ".measures.json")}
    assert callbacks.read_log(tmp_path / f"{name}.csv")
    with np.load(tmp_path / f"{name}.npz") as gates:
        assert set(gates) == {"epoch001/stage1_block1_se", "epoch001/stage1_block1_fmb"}


def _grid(tmp_path, errors, **changed):
    """Logs of made-up errors, (arm, seed) -> errors by epoch."""
    facts = {"train_images": 50000, "test_images": 10000}
    for (arm, seed), curve in errors.items():
        rows = [f"{epoch},0.01,1,{e},1,{e},9,9,cifar10" for epoch, e in enumerate(curve, start=1)]
        text = "\n".join([",".join(callbacks.LOG_COLUMNS), *rows]) + "\n"
        (tmp_path / f"{arm}_seed{seed}.csv").write_text(text)
        arguments = {**reproduce.ARMS[arm], "seed": seed, "recipe": "plain", "dataset": "cifar10"}
        settings = vars(config.Config(**arguments | changed))
        content = json.dumps({"arguments": settings, **facts})
        (tmp_path / f"{arm}_seed{seed}.json").write_text(content)
    return grid.Grid(tmp_path, reproduce.ARMS)


def test_tables_against_values_by_hand(tmp_path):
    """FMB halves the error, tanh adds a tenth of it, float32 lies between; each seed a bit else."""
    base = [np.linspace(0.8, 0.4, 10) + 0.05 * seed for seed in range(3)]
    factors = {
        "sigmoid": (1, 1, 1),
        "sigmoid_fmb": (0.49, 0.5, 0.51),
        "tanh": (1.09, 1.1, 1.11),
        "tanh_fmb": (0.89, 0.9, 0.91),
        "float32_sigmoid": (0.96, 0.97, 0.98),
    }
    logged = _grid(
        tmp_path,
        {
            (arm, seed): each[seed] * base[seed]
            for arm, each in factors.items()
            for seed in range(3)
        },
    )
    last = [0.4, 0.45, 0.5]
    found = grid.reduction(logged, "sigmoid_fmb", "sigmoid", 10)
    assert found.seeds == 3
    assert found.value == pytest.approx(1 - (0.49 * 0.4 + 0.5 * 0.45 + 0.51 * 0.5) / sum(last))
    # Student's t of 0.51, 0.50, 0.49: 4.303 times 0.01 over the root of 3
    assert found.student == pytest.approx((0.5 - 0.02484, 0.5 + 0.02484), abs=1e-4)
    assert found.bootstrap == pytest.approx((0.49, 0.51))
    assert grid.mean_error(logged, "sigmoid", 10).value == pytest.approx(0.45)
    paired = grid.difference(logged, "tanh", "sigmoid", 10)
    assert paired.value == pytest.approx((0.09 * 0.4 + 0.1 * 0.45 + 0.11 * 0.5) / 3)
    assert paired.bootstrap == pytest.approx((0.036, 0.055))
    assert [claim.verdict for claim in claims.claims(logged)[:9]] == [
        "holds",  # sigmoid + FMB lowers the error,
        "holds",  # by 50 % where the paper says 44.64
        "holds",
        "does not hold",  # by 10 % against 40.72
        "does not hold",  # tanh raises it
        "does not hold",
        "does not hold",  # so this order does not hold
        "holds",  # that of table II does
        "holds",  # and float32 is worse than 1-bit with FMB
    ]
    reverses = next(each for each in claims.claims(logged) if "reverses" in each.claim)
    assert reverses.verdict == "does not hold"


def test_seeds_are_paired(tmp_path):
    """One seed is much harder than the others, and FMB always better by a point."""
    hard = {0: 0.5, 1: 0.3, 2: 0.31}
    errors = {("sigmoid", seed): [error] * 10 for seed, error in hard.items()}
    errors |= {("sigmoid_fmb", seed): [error - 0.01] * 10 for seed, error in hard.items()}
    logged = _grid(tmp_path, errors)
    found = grid.difference(logged, "sigmoid_fmb", "sigmoid", 10)
    assert found.bootstrap == pytest.approx((-0.01, -0.01))
    assert found.student == pytest.approx((-0.01, -0.01))
    assert grid.mean_error(logged, "sigmoid", 10).bootstrap[1] > 0.4
    _grid(tmp_path, {("sigmoid", 3): [0.1] * 10})  # a seed without its pair does not count
    found = grid.difference(grid.Grid(tmp_path, reproduce.ARMS), "sigmoid_fmb", "sigmoid", 10)
    assert (found.seeds, found.value) == (3, pytest.approx(-0.01))


def test_gates_in_the_report(tmp_path):
    """Two modules of 2 and 6 channels, three seeds: every channel counts alike."""

    def module(saturated, opened, channels, never, always):
        names = ("saturated", "open", "channels", "never_open", "always_open")
        return dict(zip(names, (saturated, opened, channels, never, always), strict=True))

    _grid(tmp_path, {(arm, s): [0.5] * 10 for arm in ("sigmoid", "sigmoid_fmb") for s in range(3)})
    gates = {
        "stage1_block1_se": module(0.95, 0.5, 2, 1, 0),
        "stage1_block2_se": module(0.15, 0.9, 6, 0, 3),
    }
    rms = {"stage1_block1_se/reduce/kernel": 3.0, "stage1_block1_1_conv/kernel": 2.0}
    found = {"gates": {"10": gates}, "gradients": {"initial": rms, "final": rms}}
    for arm in ("sigmoid", "sigmoid_fmb"):
        for seed in range(3):
            (tmp_path / f"{arm}_seed{seed}.measures.json").write_text(json.dumps(found))
    logged = grid.Grid(tmp_path, reproduce.ARMS)
    saturated, prunable = claims.claims(logged)[-2:]
    assert saturated.verdict == "holds"
    assert "95.0% [95.0%, 95.0%]" in saturated.ours
    assert "all six modules: 35.0%" in saturated.ours  # (2 * 0.95 + 6 * 0.15) / 8
    assert prunable.verdict == "does not hold"
    assert "12.5%" in prunable.ours
    assert "closed, of the gates of one image: 20.0%" in prunable.ours
    row = "| sigmoid | 3 | 35.0% | 80.0% | 1 | 3 | 1.5 | 1.5 |"
    assert row in tables.report(logged, reproduce.BLOCKS)


def test_too_few_seeds_give_no_verdict(tmp_path):
    logged = _grid(tmp_path, {(arm, s): [0.5] * 10 for arm in reproduce.ARMS for s in range(2)})
    assert {claim.verdict for claim in claims.claims(logged)} == {"cannot be told"}
    assert "50.0% (n = 2)" in tables.report(logged, reproduce.BLOCKS)


def test_epochs_to_a_threshold():
    assert grid.epochs_to(np.array([0.5, 0.3, 0.4, 0.2, 0.1])) == (2, 4)
    assert grid.epochs_to(np.array([0.5, 0.3, 0.4])) == (2, None)
    assert grid.epochs_to(np.array([0.5, 0.4])) == (None, None)
    assert grid.epochs_to(np.array([0.2, 0.1])) == (1, 1)


def test_runs_that_never_reach_the_threshold_are_censored_not_dropped(tmp_path):
    """What is not known of a run that ended too early widens the interval, to both sides."""
    fast, slow = [0.5] * 4 + [0.2] * 6, [0.5] * 10
    errors = {(arm, seed): fast for arm in ("sigmoid", "sigmoid_fmb") for seed in range(3)}
    for changed, least, most, verdict in (
        ({}, 0.0, 0.0, "does not hold"),
        ({("sigmoid", seed): slow for seed in range(3)}, 1 - 5 / 11, 1.0, "holds"),
        ({("sigmoid", seed): slow + [0.5] * 3 for seed in range(3)}, 1 - 5 / 14, 1.0, "holds"),
        ({("sigmoid_fmb", seed): slow for seed in range(3)}, None, 1 - 11 / 5, "does not hold"),
        ({("sigmoid", 0): slow, ("sigmoid_fmb", 0): slow}, 0.0, 0.0, "cannot be told"),
        ({("sigmoid", seed): slow[:6] for seed in range(3)}, 1 - 5 / 7, 1.0, "holds"),
        ({("sigmoid", seed): slow[:4] for seed in range(3)}, 0.0, 1.0, "cannot be told"),
    ):
        logged = _grid(tmp_path, errors | changed)
        low, high = grid.fewer_epochs(logged, "sigmoid_fmb", "sigmoid")
        assert low.seeds == high.seeds == 3
        assert low.value == pytest.approx(least) if least is not None else low.value < -1000
        assert high.value == pytest.approx(most, abs=1e-4)
        found = claims.claims(logged)
        place = next(i for i, each in enumerate(found) if each.claim.startswith("Table III"))
        assert found[place + 1].verdict == verdict
    assert "5 (stays from 5), sigmoid: >4, >4, >4" in found[place].ours


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.6, "holds"),
        (0.3, 0.6, "cannot be told"),
        (0.1, 0.3, "does not hold"),
        (np.nan, np.nan, "cannot be told"),
    ],
)
def test_a_claim_holds_or_not_where_the_whole_interval_says_so(low, high, verdict):
    narrow = (0.4, 0.4)  # a bootstrap decides nothing
    assert claims.at_least(grid.Estimate(0.4, narrow, (low, high), 3), 0.45) == verdict
    below = grid.Estimate(0.4, narrow, (low - 0.45, high - 0.45), 3)
    assert claims.order([below]) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.3, 0.5, "holds"),  # it is there, and may be what the paper says
        (0.5, 0.6, "holds"),
        (-0.1, 0.5, "cannot be told"),
        (0.2, 0.4, "does not hold"),
    ],
)
def test_an_effect_is_as_large_as_claimed(low, high, verdict):
    assert claims.as_much(grid.Estimate(0.4, (0.4, 0.4), (low, high), 3), 0.45) == verdict


def test_ends_are_alike_within_a_margin():
    for values, verdict in (
        ((0.115, 0.125), "holds"),
        ((0.115, 0.14), "does not hold"),
        ((0.115, np.nan), "cannot be told"),
    ):
        found = [grid.Estimate(value, (value, value), (value, value), 3) for value in values]
        assert claims.alike(found, 0.12, 0.01) == verdict


def test_logs_that_are_not_of_the_grid_are_refused(tmp_path):
    _grid(tmp_path, {("tanh", 0): [0.5, 0.4, 0.3], ("sigmoid", 0): [0.5]})

    def refused(message):
        with pytest.raises(ValueError, match=message):
            grid.Grid(tmp_path, reproduce.ARMS)

    (tmp_path / "relu_seed0.csv").write_text("")
    refused("is no log of this grid")
    (tmp_path / "relu_seed0.csv").unlink()
    path = tmp_path / "tanh_seed0.csv"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[3]]))
    refused(r"must hold epochs 1, 2, .* without a gap")
    path.write_text(whole)
    _grid(tmp_path, {})
    settings = tmp_path / "tanh_seed0.json"
    content = json.loads(settings.read_text())
    for part, name, value, message in (
        ("arguments", "batch_size", 64, "is of another grid: `batch_size` is 64 there, 256 here"),
        ("arguments", "activation", "sigmoid", "`activation` is 'sigmoid' there, 'tanh' here"),
        ("arguments", "precision", "w1a1", "`precision` is 'w1a1' there, 'w1' here"),
        ("arguments", "seed", 3, "`seed` is 3 there, 0 here"),
        ("arguments", "crop", 2, "`crop` is 2 there, 4 here"),
        (None, "test_images", 5, "`test_images` 5 and 10000"),
    ):
        changed = json.loads(settings.read_text())
        (changed[part] if part else changed)[name] = value
        settings.write_text(json.dumps(changed))
        refused(message)
        settings.write_text(json.dumps(content))
    del content["arguments"]["crop"]
    settings.write_text(json.dumps(content))
    refused("was not written by this version of train.py: it lacks crop")
    settings.unlink()
    with pytest.raises(FileNotFoundError):
        grid.Grid(tmp_path, reproduce.ARMS)


@pytest.mark.slow
def test_the_smoke_profile_from_training_to_report(tmp_path, monkeypatch, capsys):
    """Two arms of it, cut off after the first; then the report alone, from the logs alone."""
    arms = ["--arms", "sigmoid", "sigmoid_fmb"]
    folders = ["--out-dir", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")]
    first, *others = (run for run in reproduce.PROFILES["smoke"].runs if run.arm in arms)
    smoke = reproduce.PROFILES["smoke"]
    monkeypatch.setitem(reproduce.PROFILES, "smoke", dataclasses.replace(smoke, runs=[first]))
    reproduce.main(["--profile", "smoke", *folders])
    kept = (tmp_path / "out" / "logs" / f"{first.name}.csv").stat().st_mtime_ns
    monkeypatch.setitem(
        reproduce.PROFILES, "smoke", dataclasses.replace(smoke, runs=[first, *others])
    )
    reproduce.main(["--profile", "smoke", *arms, *folders])
    assert "1 of 4 runs are done" in capsys.readouterr().err
    assert (tmp_path / "out" / "logs" / f"{first.name}.csv").stat().st_mtime_ns == kept
    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"figure{n:02d}.{end}" for n in range(3, 11) for end in ("png", "svg")}
    assert names == {"logs", "report.md", "summary.csv", *figures}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| sigmoid + FMB | 44.64% | not run | not run |" in report  # of epoch 9
    assert "Data set digits, 256 training and 100 test images" in report
    assert "| sigmoid | 23 | >2, >2 |" in report
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out" / "logs", again / "logs")
    reproduce.main(["--report-only", "--out-dir", str(again)])
    for name in ("report.md", "summary.csv", "figure09.svg"):
        assert (again / name).read_text() == (tmp_path / "out" / name).read_text()


def test_the_committed_reports_are_those_of_the_committed_logs(tmp_path):
    for name in ("short", "recipe", "fast"):
        committed = ROOT / reproduce.PROFILES[name].results
        if not (committed / "logs").exists():
            continue
        for logs in ("logs", "tuning"):
            if (committed / logs).exists():
                shutil.copytree(committed / logs, tmp_path / name / logs)
        reproduce.main(["--profile", name, "--report-only", "--out-dir", str(tmp_path / name)])
        for path in [*(tmp_path / name).glob("*.md"), *(tmp_path / name).glob("*.csv")]:
            assert path.read_text() == (committed / path.name).read_text()


def test_steps_follow_each_other_to_the_recipe():
    """Those that were kept end in what `fast` and the network default to."""
    names = {None, *(step.name for step in ablation.STEPS)}
    assert {step.after for step in ablation.STEPS} <= names
    last = next(step for step in reversed(ablation.STEPS) if step.kept)
    assert vars(config.Config(**ablation.arguments(last))) == vars(config.Config())
    for step in ablation.STEPS:
        before = next((each for each in ablation.STEPS if each.name == step.after), None)
        assert before is None or ablation.arguments(before) != ablation.arguments(step)


def test_table_of_steps(tmp_path):
    for seed, error in ((0, 0.3), (1, 0.2)):
        run = next(run for run in ablation.runs() if run.name == f"muon_budget3_seed{seed}")
        _write(tmp_path / "logs", run, 3, error)
    ablation.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert (
        "| `muon` | Muon for the convolutions' kernels | batch128 | 25.00% (30.0%, 20.0%)" in text
    )
    assert "| `adam` | Adam, rate 0.02, batches of 256, He's network | - | - | - |" in text
    (tmp_path / "logs" / "sgd_budget3_seed0.csv").write_text("")
    with pytest.raises(ValueError, match="is no log of this grid"):
        ablation.write_report(tmp_path)


def test_goals_are_read_from_the_logs(tmp_path):
    errors = {"fmb": (0.18, 0.19, 0.2), "no_se": (0.21, 0.22, 0.22), "soft": (0.18, 0.18, 0.18)}
    for arm, found in errors.items():
        for seed, error in enumerate(found):
            _write(tmp_path / "logs", _fast_run(f"{arm}_budget6_seed{seed}"), 6, error)
    for seed, error in enumerate((0.31, 0.29, 0.29)):
        _write(tmp_path / "logs", _fast_run(f"fmb_budget2_seed{seed}"), 2, error)
    _write(tmp_path / "logs", _fast_run("fmb_budget1_seed0"), 1, 0.301)
    goals.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    for row in (
        "is there (paper: 9) | 2 | 1 | 2 (n = 3) | **reached** |",
        "| 20.0% | 17.0% | 19.0% [18.0%, 20.0%], t [16.5%, 21.5%] (n = 3) | **reached** |",
        "| error, 100 epochs (paper: about 12 %) | 10.0% | 9.0% | not run | not run |",
        "| SE + FMB less no SE, 6 epochs | +0.0 | -2.0 | -2.7 [-3.0, -2.0], t [-4.1, -1.2] (n = 3)"
        " | **stretch reached** |",
        "| +0.5 | +0.0 | +1.0 [+0.0, +2.0], t [-1.5, +3.5] (n = 3) | **missed** |",
        "| 6 | 19.00% (18.0%, 19.0%, 20.0%) | 18.00% (18.0%, 18.0%, 18.0%) | 21.67% (21.0%, 22",
    ):
        assert row in text
    assert (tmp_path / "budgets.svg").exists()


def test_a_run_of_another_budget_is_refused(tmp_path):
    """Where the rate is annealed, the first epochs of a long run are no short run."""
    run = _fast_run("fmb_budget2_seed0")
    _write(tmp_path, run, 6, epochs=6)
    with pytest.raises(ValueError, match="`epochs` is 6 there, 2 here"):
        runs.is_done(run, tmp_path)
    with pytest.raises(ValueError, match="`epochs` is 6 there, 2 here"):
        grid.Grid(tmp_path, goals.arms())
    plain = reproduce.PROFILES["short"].runs[0]
    _write(tmp_path, plain, 25, epochs=100)
    assert runs.is_done(plain, tmp_path)


def _fast_run(name):
    return next(run for run in goals.runs() if run.name == name)


def test_a_difference_counts_where_the_whole_interval_does():
    goal = goals.Goal("", None, 0.0, -0.02, excludes=True)
    sure = (-0.03, -0.02)  # the bootstrap, which decides nothing
    for value, student, verdict in (
        (-0.01, (-0.03, 0.001), "**missed**"),
        (-0.03, (-0.07, 0.01), "**missed**"),
        (-0.01, (-0.03, -0.001), "**reached**"),
        (-0.03, (-0.04, -0.02), "**stretch reached**"),
        (-0.03, grid.UNKNOWN, "cannot be told"),
    ):
        assert goal.verdict(grid.Estimate(value, sure, student, 5)) == verdict
    assert goal.verdict(grid.NOT_RUN) == "not run"


def test_the_smallest_budget_is_known_if_all_smaller_ones_are(tmp_path):
    def smallest(**errors):
        for name, error in errors.items():
            _write(tmp_path / "logs", _fast_run(name), int(name.split("budget")[1][0]), error)
        return goals._smallest_budget(grid.Grid(tmp_path / "logs", goals.arms()))

    assert not smallest(fmb_budget2_seed0=0.2).seeds  # nothing is known of budget 1
    assert smallest(fmb_budget1_seed0=0.4).value == 2
    assert smallest(fmb_budget1_seed0=0.3).value == 1
