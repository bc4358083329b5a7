"""How this package's programs end when something is wrong: with one line, not a traceback."""

import contextlib
import errno
import os
import signal
import sys
import threading

#: What an operating system says of a machine that has not enough, whatever was asked.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EPIPE)
BAD_INPUT, FAILED = 2, 1
#: As a shell has it: 128 and the number of the signal.
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143


@contextlib.contextmanager
def refusing_bad_input(parser):
    """Ends the program of an `argparse` parser with exit code 2 where its input is to blame.

    That is a ValueError, or an OSError of a file. A full disk and the like end it with 1, as in
    `failing`.
    """
    with failing(parser):
        try:
            yield
        except (ValueError, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno in _MACHINE:
                raise
            end(parser, BAD_INPUT, problem)


@contextlib.contextmanager
def failing(parser):
    """Ends the program with exit code 1 where disk or memory are full, or a library gave up.

    Ctrl-C ends it with 130 and SIGTERM with 143; files that are being written are removed first.
    Where its output goes into a pipe that nobody reads any more it ends without a word, with 141.
    """
    import tensorflow as tf

    try:
        with _raising_on_sigterm():
            yield
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"{parser.prog}: interrupted\n")
    except _Terminated:
        parser.exit(TERMINATED, f"{parser.prog}: terminated\n")
    except BrokenPipeError:  # who read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit(UNREAD)
    except OSError as problem:
        end(parser, FAILED, problem)
    except (MemoryError, OverflowError, RuntimeError, tf.errors.OpError) as problem:
        end(parser, FAILED, _said(problem))


def _said(problem):
    """The line of a problem that says most: of TensorFlow's in a graph not where it was made."""
    first, *others = str(problem).strip().splitlines() or [""]
    if first == "Graph execution error:":
        others = [line for line in others if line.strip() and not line.startswith((" ", "\t"))]
        return next((line for line in others if not line.startswith("Detected at node")), first)
    return first


class _Terminated(BaseException):
    """SIGTERM; no Exception, as KeyboardInterrupt is none."""


@contextlib.contextmanager
def _raising_on_sigterm():
    if threading.current_thread() is not threading.main_thread():
        yield  # no other may say what a signal does
        return

    def terminate(*_):
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end(parser, code, problem):
    """Exits with a code and what the problem says, on standard error."""
    said = str(problem) or "there is not enough memory"  # MemoryError says nothing
    parser.exit(code, f"{parser.prog}: error: {said}\n")
