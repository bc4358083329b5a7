import argparse
import errno

import pytest

from larq_seresnet import programs

import tensorflow as tf

PARSER = argparse.ArgumentParser("x")


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (ValueError("`epochs` must be positive."), 2, "`epochs` must be positive."),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "[Errno 2] No such file: 'a'"),
        (OSError(errno.ENOSPC, "No space left"), 1, "[Errno 28] No space left"),
        (MemoryError(), 1, "there is not enough memory"),
        (RuntimeError("LCE gave up.\nTraceback of its own"), 1, "LCE gave up."),
        (tf.errors.ResourceExhaustedError(None, None, "OOM\n at node 3"), 1, "OOM"),
    ],
)
def test_problems_end_a_program_in_one_line(capsys, problem, code, said):
    with (
        pytest.raises(SystemExit) as stop,
        programs.refusing_bad_input(PARSER),
    ):
        raise problem
    assert stop.value.code == code
    assert capsys.readouterr().err == f"x: error: {said}\n"


def test_a_fault_of_the_program_itself_is_not_hidden():
    with pytest.raises(TypeError), programs.refusing_bad_input(PARSER):
        raise TypeError
    with pytest.raises(ValueError), programs.failing(PARSER):
        raise ValueError
