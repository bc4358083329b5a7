import pytest

from larq_seresnet.training import throughput
from larq_seresnet.training.study import time_to_error

TINY = "--dataset digits --filters 4 4 4 --limit-train 1024"


@pytest.mark.slow
def test_both_are_trained_until_they_are_there(capsys, monkeypatch):
    monkeypatch.setattr(throughput.batch_norm, "IMAGES", 100)
    monkeypatch.setattr(throughput, "REPEATS", 2)
    found = time_to_error.main([*TINY.split(), "--error", "0.85", "--epochs", "20"])
    printed = capsys.readouterr().out
    for seconds, epochs, error in found.values():
        assert seconds > 0
        assert 1 <= epochs <= 20
        assert error <= 0.85
    assert "times sooner" in printed
    assert printed.count("plain, epoch") == found["plain Keras, no SE"][1]


@pytest.mark.slow
def test_who_never_gets_there_has_no_figure(capsys, monkeypatch):
    monkeypatch.setattr(time_to_error, "fast", lambda arguments: None)
    found = time_to_error.main([*TINY.split(), "--error", "0.001", "--epochs", "1"])
    assert set(found.values()) == {None}
    assert capsys.readouterr().out.count("| never |") == 2


def test_an_error_that_is_no_share_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        time_to_error.main(["--error", "20"])
    assert stop.value.code == 2
    assert "--error must be between 0 and 1, received 20.0" in capsys.readouterr().err
