import numpy as np
import pytest

from larq_seresnet.training import data
from larq_seresnet.training.study import batch_norm_draws


@pytest.mark.slow
def test_every_way_is_tried_with_every_draw(monkeypatch, small_model):
    """All statistics of a set that has no more images than are taken are the same: no spread."""
    monkeypatch.setattr(batch_norm_draws, "MOVING_BATCHES", 1)
    images = data.load("digits", limit_train=64, limit_test=50)
    found = batch_norm_draws.errors(small_model(precision="w1a1"), images, draws=2)
    assert len(found) == 2 + len(batch_norm_draws.COUNTS)
    assert all(len(errors) == 2 for errors in found.values())
    plain = [errors for way, errors in found.items() if "augmented" not in way]
    assert np.ptp(plain) == 0
    assert all(0 <= error <= 1 for errors in found.values() for error in errors)


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        batch_norm_draws.main(["--precision", "w2"])
    assert stop.value.code == 2
    assert "`precision` must be one of" in capsys.readouterr().err
