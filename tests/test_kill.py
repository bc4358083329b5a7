import pathlib

import pytest


@pytest.fixture(scope="module")
def kill():
    """The program, which is no test and in no package; its processes find it by the path too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(pathlib.Path(__file__).parent)
        import kill

        yield kill


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["w1", "convert"])
def test_nothing_is_lost_by_being_killed(kill, scenario):
    """Ten of them; more than a hundred, of all scenarios, are in results/kills.txt."""
    found = kill.main(["--kills", "5", "--scenarios", scenario, "--seed", "1"])
    assert found[scenario].kills == 5
