import json

import pytest

from larq_seresnet.training import throughput
from larq_seresnet.training.study import goals, time_to_error

TINY = "--dataset digits --filters 4 4 4 --limit-train 1024"


@pytest.mark.slow
def test_both_are_trained_until_they_are_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput.batch_norm, "IMAGES", 100)
    monkeypatch.setattr(throughput, "REPEATS", 2)
    out_dir = tmp_path / "made"
    found = time_to_error.main(
        [*TINY.split(), "--error", "0.85", "--epochs", "20", "--out-dir", str(out_dir)]
    )
    printed = capsys.readouterr().out
    for way in ("plain", "fast"):
        assert [each["epochs"] for each in found[way]] == list(range(1, len(found[way]) + 1))
        *before, last = (each["error"] for each in found[way])
        assert last <= 0.85 < min(before, default=1)
        assert all(each["seconds"] > 0 for each in found[way])
    assert time_to_error.markdown(found) in printed  # whichever was sooner
    assert printed.count("plain, epoch") == len(found["plain"])
    assert json.loads((out_dir / time_to_error.FILE).read_text()) == found


def _found(plain, fast):
    return {
        "error": 0.2,
        "dataset": "cifar10",
        "training_images": 50000,
        "seed": 0,
        "processor": "a processor",
        "cores": 2,
        "compute_dtype": "bfloat16",
        "plain": [{"epochs": 9, "seconds": 900.0, "error": plain}],
        "fast": [
            {"epochs": 1, "seconds": 60.0, "error": 0.3},
            {"epochs": 2, "seconds": 120.0, "error": fast},
        ],
    }


@pytest.mark.parametrize(
    ("plain", "fast", "told", "rows"),
    [
        (0.2, 0.2, "7.5 times sooner;", ("| 900 | 9 | 20.00% | yes |", "| 120 | 2 | 20.00% | yes")),
        (0.21, 0.2, "more than 7.5 times sooner;", ("| 900 | 9 | 21.00% | never |",)),
        (0.2, 0.21, "fast never got there;", ("| 120 | 2 | 21.00% | never |",)),
    ],
)
def test_who_is_not_there_at_the_end_never_was(plain, fast, told, rows):
    text = time_to_error.markdown(_found(plain, fast))
    for part in (*rows, told, "; fast in bfloat16, plain Keras in float32"):
        assert part in text


def test_what_takes_longer_is_said_to_be_later():
    found = _found(0.2, 0.2)
    found["fast"][1]["seconds"] = 1800.0
    assert "\n2.0 times later;" in time_to_error.markdown(found)


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(239.0, "**reached**"), (241.0, "**missed**"), (149.0, "**stretch reached**")],
)
def test_the_goals_tell_what_became_of_it(seconds, verdict, tmp_path, write_log):
    run = goals.runs()[0]
    write_log(tmp_path / "logs", run, run.arguments["epochs"])
    goals.write_report(tmp_path)
    assert "| 5.0 times | 8.0 times | not run | not run |" in (tmp_path / "README.md").read_text()
    found = _found(0.2, 0.2)
    found["plain"][0]["seconds"] = 1200.0
    found["fast"][1]["seconds"] = seconds
    (tmp_path / time_to_error.FILE).write_text(json.dumps(found))
    goals.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"| {1200 / seconds:.1f} times (n = 1) | {verdict} |" in text
    assert "## Time to an error" in text
    found["fast"][1]["error"] = 0.21
    (tmp_path / time_to_error.FILE).write_text(json.dumps(found))
    goals.write_report(tmp_path)
    assert "| never (n = 1) | **missed** |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--error 20", "--error must be between 0 and 1, received 20.0"),
        ("--epochs 0", "--epochs must be at least 1, received 0"),
        ("--seed -1", "`seed` must be from 0 to 2**31 - 1, received -1"),
        ("--filters 0 0 0", "`filters` must be three positive integers, received"),
    ],
)
def test_bad_input_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        time_to_error.main(flags.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_statistics_are_of_more_images_at_the_end():
    assert time_to_error.estimated(3, 50_000) == 4_000 + 4_000 + 20_000
    assert time_to_error.estimated(2, 5_000) == 4_000 + 5_000
