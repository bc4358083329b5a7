import importlib.util
import pathlib
import sys

import pytest


@pytest.fixture(scope="module")
def kill():
    """The program, which is no test and in no package."""
    path = pathlib.Path(__file__).with_name("kill.py")
    spec = importlib.util.spec_from_file_location("kill", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["w1", "convert"])
def test_nothing_is_lost_by_being_killed(kill, scenario):
    """Ten of them; a hundred, of all scenarios, are in results/kills.txt."""
    found = kill.main(["--kills", "5", "--scenarios", scenario, "--seed", "1"])
    assert found[scenario].kills == 5
