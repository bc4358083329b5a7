import json

import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import closing
from larq_seresnet.training.config import FLAG_GROUPS
from larq_seresnet.training.study import estimates, frontier, pruning


def _run(name):
    return next(run for run in pruning.runs() if run.name == name)


def _cost(arguments):
    """The weights of the branches, and what `keep` leaves of them."""
    keep = arguments.get("keep", 1.0)
    shape = {name: value for name, value in arguments.items() if name in FLAG_GROUPS["model"]}
    model = SEResNet14(weights=None, **shape)
    kernels = [
        layer.kernel.shape.num_elements()
        for layer in model.layers
        if layer.name.endswith(("_1_conv", "_2_conv"))
    ]
    assert len(kernels) == 12
    return sum(kernels), keep * sum(kernels)


@pytest.mark.parametrize("size", ["", "_16kb", "_20kb", "_70kb"])
def test_what_is_compared_is_of_one_size(size):
    """Less of the weights, as a wider network has more beside them; a report has the bytes."""
    whole, kept = _cost(pruning.ARMS[f"closed{size}"])
    by_hand, _ = _cost(pruning.ARMS[f"by_hand{size}"])
    assert by_hand * 0.75 < kept < by_hand
    assert whole > 1.7 * by_hand
    for arm in ("random", "frequency"):
        assert _cost(pruning.ARMS[arm]) == _cost(pruning.ARMS["closed"])


def test_seeds_come_in_pairs_and_the_first_ones_first():
    names = [run.name for run in pruning.runs()]
    assert len(set(names)) == len(names)
    assert names[:2] == ["closed_budget25_seed0", "by_hand_budget25_seed0"]
    assert {"closed_budget25_seed2", "random_budget25_seed2", "by_hand_budget25_seed2"} <= {*names}
    assert names.index("closed_budget25_seed1") > names.index("whole_budget25_seed0")


KEPT = {
    f"stage{stage}_block{block}": [*range(6 * stage)] for stage in (1, 2, 3) for block in (1, 2)
}


def _write_kept(logs, seed=0, kept=KEPT):
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"closed_budget25_seed{seed}.measures.json"
    path.write_text(json.dumps({"gates": {}, "pruned": {"kept": kept}}))


def test_widths_are_trained_once_they_are_found(tmp_path):
    assert "found" not in pruning.arms() | pruning.arms(tmp_path)
    assert not [run for run in pruning.runs(tmp_path) if run.name.startswith("found")]
    _write_kept(tmp_path)
    _write_kept(tmp_path, 2, KEPT | {"stage1_block1": [3, 5]})
    planned = {run.name: run.arguments for run in pruning.runs(tmp_path)}
    assert planned["found_budget25_seed0"]["inner"] == (6, 6, 12, 12, 18, 18)
    assert planned["found_budget25_seed2"]["inner"] == (2, 6, 12, 12, 18, 18)
    assert "found_budget25_seed1" not in planned
    known = pruning.arms(tmp_path)
    model = SEResNet14(weights=None, **known["found"])
    assert [model.get_layer(f"{block}_1_conv").filters for block in KEPT] == [6, 6, 12, 12, 18, 18]
    gated = SEResNet14(weights=None, **known["found_gated"])
    assert closing.modules(gated).keys() == KEPT.keys()
    assert known["found_gated"]["squeezed"] == (2, 2, 3, 3, 5, 5)
    assert "found_inner" not in known
    (tmp_path / "closed_budget25_seed0.measures.json").rename(
        tmp_path / "closed_inner_budget25_seed0.measures.json"
    )
    known = pruning.arms(tmp_path)
    assert known["found_inner"]["filters"] == pruning.ARMS["by_hand"]["filters"]
    assert known["found_inner"]["inner"] == (6, 6, 12, 12, 18, 18)
    gated = known["found_inner_gated"]
    assert gated["inner"] == known["found_inner"]["inner"]
    assert (gated["gate_at"], gated["squeezed"]) == ("middle", (2, 2, 3, 3, 5, 5))
    assert "found" not in known


def _report(folder, write_log, monkeypatch, by_hand, hundredth):
    """The rows of a report by hand: 0.2, 0.3 and 0.4 points better in pairs, half removed.

    Args:
        by_hand: Bytes of the file of hand-chosen widths; those that are pruned have 25,000.
        hundredth: The error of the network that is pruned the most; that of float32 is 7 %.
    """
    asked = []

    def cost(arguments):
        asked.append(arguments)
        is_float32 = arguments.get("precision") == "float32"
        is_pruned = arguments.get("inner") == (2,)
        size = 2_525_000 if is_float32 else 25_000 if is_pruned else by_hand
        return frontier.Cost(1, size, macs=2_000, memory=3_000)

    monkeypatch.setattr(frontier, "cost", cost)
    logs = folder / "logs"
    for seed, gain in enumerate((0.002, 0.003, 0.004)):
        write_log(logs, _run(f"by_hand_budget25_seed{seed}"), 25, 0.12)
        write_log(logs, _run(f"closed_budget25_seed{seed}"), 25, 0.12 - gain)
    write_log(logs, _run("whole_budget25_seed0"), 25, 0.105)
    write_log(logs, _run("float32_budget25_seed0"), 25, 0.07)
    write_log(logs, _run("hundredth_budget25_seed0"), 25, hundredth)
    measured = {
        "gates": {},
        "occupancy": {"b": {"channels": 4, "always": 2, "sometimes": 0, "never": 2, "open": 0.5}},
        "pruned": {"kept": {"b": [0, 3]}},
    }
    for arm in ("closed", "hundredth"):
        (logs / f"{arm}_budget25_seed0.measures.json").write_text(json.dumps(measured))
    pruning.write_report(folder)
    assert not any("keep" in arguments for arguments in asked)
    return (folder / "README.md").read_text()


def test_goals_are_told_from_the_logs(tmp_path, write_log, monkeypatch):
    text = _report(tmp_path, write_log, monkeypatch, by_hand=25_000, hundredth=0.11)
    for row in (
        "| wide, closed by gates, pruned | 48-72-72 | 2 | 25,000 | 2,000 | 3,000 | 11.70% (11.8%, ",
        "| hand-chosen widths, no gates | 32-52-52 | all | 25,000 | 2,000 | 3,000 | 12.00% (12.0%",
        "| 50.0% removed, +1.30 (n = 1) | **missed** |",
        "| 101.0 times, +4.00 (n = 1) | **missed** |",
        "t [-0.55, -0.05] (n = 3), +0.0% bytes | **reached** |",
        "| +0.0% | -0.30 [-0.40, -0.20], t [-0.55, -0.05] (n = 3) | **yes** |",
        "| +1.30 (n = 1) |  |",
        "| Is the term in the loss of use? |",
    ):
        assert row in text
    assert (tmp_path / "pruning.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_more_bytes_does_not_win(tmp_path, write_log, monkeypatch):
    text = _report(tmp_path, write_log, monkeypatch, by_hand=24_500, hundredth=0.1)
    assert "t [-0.55, -0.05] (n = 3), +2.0% bytes | **missed** |" in text
    assert (
        "| +2.0% | -0.30 [-0.40, -0.20], t [-0.55, -0.05] (n = 3) | **yes**, with more bytes |"
        in text
    )
    assert "| 101.0 times, +3.00 (n = 1) | **reached** |" in text


def test_an_answer_says_which_file_is_the_larger_one():
    worse = estimates.Estimate(0.02, estimates.UNKNOWN, (0.01, 0.03), 3)
    better = estimates.Estimate(-0.02, estimates.UNKNOWN, (-0.03, -0.01), 3)
    for found, ratio, said in (
        (worse, 0.5, "**no**, worse, with fewer bytes"),
        (worse, 1.005, "**no**, worse"),
        (worse, 2.0, "**no**, worse"),
        (better, 0.5, "**yes**"),
        (better, 2.0, "**yes**, with more bytes"),
        (better, float("nan"), "**yes**"),
    ):
        assert pruning._answer(found, ratio) == said
