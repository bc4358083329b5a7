import argparse
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from larq_seresnet import files, programs

import tensorflow as tf

GRAPH_ERROR = """Graph execution error:

Detected at node CollectiveReduceV2 defined at (most recent call last):
  File "a.py", line 1, in <module>

worker 1 is gone
\t [[{{node CollectiveReduceV2}}]] [Op:__inference_train_function_1]"""
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
        (tf.errors.UnavailableError(None, None, GRAPH_ERROR), 1, "worker 1 is gone"),
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


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_end_a_program_in_one_line(capsys, tmp_path, number, code, said):
    """After what it was writing was removed; what signals did before, they do again."""
    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, before)  # a shell's background jobs ignore SIGINT

    def write(part):
        part.write_text("half")
        os.kill(os.getpid(), number)
        time.sleep(10)

    with pytest.raises(SystemExit) as stop, programs.refusing_bad_input(PARSER):
        files.replace(tmp_path / "whole", write)
    assert stop.value.code == code
    assert capsys.readouterr().err == f"x: {said}\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_a_fault_of_the_program_itself_is_not_hidden():
    with pytest.raises(TypeError), programs.refusing_bad_input(PARSER):
        raise TypeError
    with pytest.raises(ValueError), programs.failing(PARSER):
        raise ValueError


def test_a_folder_that_went_while_it_was_written_ends_a_program_in_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop, programs.failing(PARSER):
        (tmp_path / "gone" / "log.csv").open("a")
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("x: error: [Errno 2] No such file")


def test_output_that_nobody_reads_any_more_ends_a_program_without_a_word():
    """As `convert.py ... | head` does."""
    script = (
        "import argparse\n"
        "from larq_seresnet import programs\n"
        "with programs.refusing_bad_input(argparse.ArgumentParser('x')):\n"
        "    for _ in range(100_000):\n"
        "        print('a line')\n"
    )
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in said
    assert "x: error" not in said
