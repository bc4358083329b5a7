import dataclasses
import json

import pytest

from larq_seresnet.training import config, reproduce
from larq_seresnet.training.study import ablation, estimates, goals, grid, runs


def test_steps_follow_each_other_to_the_recipe():
    """Those that were kept end in what `fast` and the network default to."""
    names = {None, *(step.name for step in ablation.STEPS)}
    assert {step.after for step in ablation.STEPS} <= names
    last = next(step for step in reversed(ablation.STEPS) if step.kept)
    assert vars(config.Config(**ablation.arguments(last))) == vars(config.Config())
    for step in ablation.STEPS:
        before = next((each for each in ablation.STEPS if each.name == step.after), None)
        assert before is None or ablation.arguments(before) != ablation.arguments(step)


def test_table_of_steps(tmp_path, write_log):
    for seed, error in ((0, 0.3), (1, 0.2)):
        run = next(run for run in ablation.runs() if run.name == f"muon_budget3_seed{seed}")
        write_log(tmp_path / "logs", run, 3, error)
    ablation.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert (
        "| `muon` | Muon for the convolutions' kernels | batch128 | 25.00% (30.0%, 20.0%)" in text
    )
    assert text.count("| yes |") == sum(step.kept for step in ablation.STEPS)
    assert "| no gradient through FMB | relaxed80 | - | - | no |" in text
    assert "| `adam` | Adam, rate 0.02, batches of 256, He's network | - | - | - | yes |" in text
    (tmp_path / "logs" / "sgd_budget3_seed0.csv").write_text("")
    with pytest.raises(ValueError, match="is no log of this grid"):
        ablation.write_report(tmp_path)


def test_goals_are_read_from_the_logs(tmp_path, write_log):
    errors = {"fmb": (0.18, 0.19, 0.2, 0.19, 0.19), "no_se": (0.22,) * 5, "soft": (0.18,) * 4}
    for arm, found in errors.items():
        for seed, error in enumerate(found):
            write_log(tmp_path / "logs", _fast_run(f"{arm}_budget6_seed{seed}"), 6, error)
    write_log(tmp_path / "logs", _fast_run("s_budget100_seed0"), 100, 0.09)
    write_log(tmp_path / "logs", _fast_run("fmb_budget1_seed0"), 1, 0.27)
    modules = {
        "stage1_block1_se": {"open": 0.5, "always_open": 4, "channels": 16},
        "stage3_block2_se": {"open": 1.0, "always_open": 64, "channels": 64},
    }
    measured = {"gates": {"1": {}, "6": modules}, "gradients": {}}
    (tmp_path / "logs" / "fmb_budget6_seed0.measures.json").write_text(json.dumps(measured))
    goals.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    for row in (
        "| 16.00% | 15.00% | 19.00% [18.40%, 19.60%], t [18.12%, 19.88%] (n = 5) | **missed** |",
        "| S: error, 100 epochs | 9.50% | 8.70% | 9.00% (n = 1) | **reached** |",
        "| M: error, 100 epochs | 8.50% | 7.50% | not run | not run |",
        "| error, 1 epoch | 28.00% | 26.00% | 27.00% (n = 1) | cannot be told |",
        "| SE + FMB minus no SE, 6 epochs | +0.00 | -2.00 | -3.00 [-3.60, -2.40], t [-3.88, -2.12] "
        "(n = 5) | **stretch reached** |",
        "| +0.30 | +0.00 | +1.00 [+0.25, +1.75], t [-0.30, +2.30] (n = 4) | cannot be told |",
        "After 6 epochs 90% of the gates of SE + FMB are open; 68 of 80 channels are open for ",
        "| 6 | 19.00% (18.0%, 19.0%, 20.0%, 19.0%, 19.0%) | 18.00% (18.0%, 18.0%, 18.0%, 18.0%)",
    ):
        assert row in text
    assert (tmp_path / "budgets.svg").exists()


def test_code_and_machine_of_what_was_resumed_are_told(tmp_path, write_log):
    """But for a process that ended no epoch: seed 3 was finished when another looked at it."""
    names = [f"fmb_budget6_seed{seed}" for seed in range(4)]
    began = {"commit": "aaa", "processor": "a GPU"}
    resumed = (
        {},
        {"after_epoch": 3, "commit": "bbb", "processor": "a GPU"},
        {"after_epoch": 5, "commit": "ccc", "processor": "a CPU"},
        {"after_epoch": 6, "commit": "ddd", "processor": "a CPU"},
    )
    for name, part in zip(names, resumed, strict=True):
        write_log(tmp_path, _fast_run(name), 6)
        path = tmp_path / f"{name}.json"
        facts = began | ({"resumed": [part]} if part else {})
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    told = grid.Grid(tmp_path, runs.arms_of(goals.runs())).provenance()
    assert "with the code of aaa, bbb, ccc, layers" in told
    assert told.endswith("Begun on one processor and finished on another: 1 of 4.")


def test_a_run_of_another_budget_is_refused(tmp_path, write_log):
    """Where the rate is annealed, the first epochs of a long run are no short run."""
    run = _fast_run("fmb_budget1_seed0")
    write_log(tmp_path, run, 6, epochs=6)
    with pytest.raises(ValueError, match="`epochs` is 6 there, 1 here"):
        runs.is_done(run, tmp_path)
    with pytest.raises(ValueError, match="`epochs` is 6 there, 1 here"):
        grid.Grid(tmp_path, runs.arms_of(goals.runs()))
    plain = reproduce.PROFILES["short"].runs[0]
    write_log(tmp_path, plain, 25, epochs=100)
    assert runs.is_done(plain, tmp_path)


def test_an_arm_is_judged_by_its_own_arguments_whichever_log_comes_first(tmp_path, write_log):
    # the first by name decides what no arm does: not whether inputs harden, which it has none of
    for name in ("fmb_budget6_seed0", "s_w1a1_budget100_seed0", "soft_budget6_seed0"):
        run = _fast_run(name)
        write_log(tmp_path, run, run.arguments["epochs"])
    logged = grid.Grid(tmp_path, runs.arms_of(goals.runs()))
    assert len(logged.runs) == 3
    write_log(tmp_path, run, 6, crop=4)
    with pytest.raises(ValueError, match="`crop` is 4 there, 2 here"):
        grid.Grid(tmp_path, runs.arms_of(goals.runs()))


def test_seeds_pair_only_where_both_runs_computed_alike(tmp_path, write_log):
    for arm, error, dtypes in (
        ("fmb", 0.2, ("bfloat16", "bfloat16")),
        ("soft", 0.3, ("bfloat16", "float32")),
    ):
        for seed, dtype in enumerate(dtypes):
            run = _fast_run(f"{arm}_budget6_seed{seed}")
            write_log(tmp_path, run, 6, error, compute_dtype=dtype)
    logged = grid.Grid(tmp_path, runs.arms_of(goals.runs()))
    arms = "fmb_budget6", "soft_budget6"
    found = grid.difference(logged, *arms, 6)
    assert found.seeds == 1
    assert found.text().endswith("(n = 1, 1 not compared: computed in other dtypes)")
    assert [found.seeds for found in grid.fewer_epochs(logged, *arms)] == [1, 1]
    assert grid.mean_error(logged, "soft_budget6", 6).seeds == 2


def test_runs_that_are_no_pair_are_not_said_to_be_missing(tmp_path, write_log):
    for arm, dtype in (("fmb", "bfloat16"), ("soft", "float32")):
        run = _fast_run(f"{arm}_budget6_seed0")
        write_log(tmp_path, run, 6, compute_dtype=dtype)
    logged = grid.Grid(tmp_path, runs.arms_of(goals.runs()))
    found = grid.difference(logged, "fmb_budget6", "soft_budget6", 6)
    assert found.text() == "not compared: computed in other dtypes"
    assert goals.Goal("", None, 0.0, 0.0).verdict(found) == found.text()
    assert grid.difference(logged, "fmb_budget6", "no_se_budget6", 6).text() == "not run"


def test_a_difference_tells_what_else_its_runs_differ_in(tmp_path, write_log):
    """Another processor or another training of the teacher; not the program that trained."""
    gpu = {"processor": "a GPU, training/xla"}
    cpu = {"processor": "2 cores", "after_epoch": 3}
    for arm, seed, told in (
        ("fmb", 0, gpu | {"teacher_sha256": "a"}),
        ("soft", 0, {"processor": "a GPU, training/xla_train.py", "teacher_sha256": "b"}),
        ("fmb", 1, gpu | {"resumed": [cpu]}),
        ("soft", 1, gpu),
    ):
        write_log(tmp_path, _fast_run(f"{arm}_budget6_seed{seed}"), 6, 0.2, told)
    logged = grid.Grid(tmp_path, runs.arms_of(goals.runs()))
    found = grid.difference(logged, "fmb_budget6", "soft_budget6", 6)
    note = "(n = 2, 1 on different processors, 1 by different teachers)"
    assert found.text() == f"0.0% {note}"
    before = grid.difference(logged, "fmb_budget6", "soft_budget6", 3)  # one moved after epoch 3
    assert before.text() == "0.0% (n = 2, 1 by different teachers)"
    assert grid.fewer_epochs(logged, "fmb_budget6", "soft_budget6")[0].apart == before.apart
    assert grid.mean_error(logged, "fmb_budget6", 6).text() == "20.0% (n = 2)"


def test_all_runs_of_a_grid_saw_the_same_images(tmp_path, write_log):
    for arm, digest in (("fmb", "a"), ("soft", "b")):
        told = {"train_images_sha256": digest}
        write_log(tmp_path, _fast_run(f"{arm}_budget6_seed0"), 6, told=told)
    with pytest.raises(ValueError, match="received logs with `train_images_sha256` a and b"):
        grid.Grid(tmp_path, runs.arms_of(goals.runs()))


def _fast_run(name):
    return next(run for run in goals.runs() if run.name == name)


def test_a_difference_counts_where_the_whole_interval_does():
    goal = goals.Goal("", None, 0.0, -0.02, by_interval=True, seeds=5)
    sure = (-0.03, -0.02)  # the bootstrap, which decides nothing
    for value, student, verdict in (
        (0.02, (0.001, 0.03), "**missed**"),
        (-0.03, (-0.07, 0.01), "cannot be told"),
        (-0.01, (-0.03, -0.001), "**reached**"),
        (-0.03, (-0.04, -0.02), "**stretch reached**"),
    ):
        assert goal.verdict(estimates.Estimate(value, sure, student, 5)) == verdict
        assert goal.verdict(estimates.Estimate(value, sure, student, 4)) == "cannot be told"
    better = dataclasses.replace(goal, by_interval=False, seeds=3)
    assert better.verdict(estimates.Estimate(-0.01, sure, (-0.03, 0.001), 3)) == "**reached**"
    assert goal.verdict(estimates.NOT_RUN) == "not run"
    exact = dataclasses.replace(better, goal=0.01)  # 0.010000000000000009, as floats have it
    assert exact.verdict(estimates.Estimate(0.099 - 0.089, sure, sure, 3)) == "**reached**"
