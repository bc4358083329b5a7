import kill
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["w1", "convert"])
def test_nothing_is_lost_by_being_killed(scenario):
    """Ten of them; a hundred, of all scenarios, are in results/kills.txt."""
    found = kill.main(["--kills", "5", "--scenarios", scenario, "--seed", "1"])
    assert found[scenario].kills == 5
