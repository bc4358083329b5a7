import importlib
import importlib.metadata
import subprocess
import sys

import pytest

from larq_seresnet import __main__ as console


@pytest.fixture
def fails(capsys, monkeypatch):
    """What a command that fails prints on standard error, its last line."""
    monkeypatch.setattr(sys, "argv", ["larq-seresnet"])

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            console.main(arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


def test_every_command_is_a_program_that_says_what_it_takes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["larq-seresnet"])
    for command in console.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            console.main([command, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: larq-seresnet {command} [-h]")


def test_arguments_and_errors_are_those_of_the_program(fails):
    expected = "larq-seresnet convert: error: nowhere does not exist: a run directory"
    assert fails("convert", "nowhere").startswith(expected)
    assert fails("train", "--epochs", "0", "--dataset", "digits") == (
        "larq-seresnet train: error: `epochs` must be positive, received 0."
    )


def test_what_is_no_command_is_refused(fails):
    assert "invalid choice: 'trian' (choose from" in fails("trian")
    assert "the following arguments are required: COMMAND" in fails()


def test_an_extra_that_is_not_installed_is_named(fails, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="larq_compute_engine")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert fails("verify") == (
        "larq-seresnet: error: verify needs the package larq_compute_engine: "
        'pip install "larq_seresnet[export]".'
    )


@pytest.mark.slow
def test_the_installed_command_starts(tmp_path):
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="larq-seresnet")
    assert script.load() is console.main
    command = [sys.executable, "-m", "larq_seresnet", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert all(f"\n{command} " in shown for command in console.COMMANDS)
