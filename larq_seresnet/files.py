"""How this package writes files, and tables in them; what files of others must pass."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

TRIAL_SECONDS = 60


def replace(path, write):
    """Writes a file beside `path`, then puts it in its place: there is never half a file.

    Args:
        path: Where to; a file that is there stays until the new one is complete.
        write: Called with the path of the file beside it, which it must write.
    """
    replace_all({path: write})


def replace_all(writers):
    """Writes files that belong together, all of them beside their places before one is there.

    Args:
        writers: By path, a function as `replace` takes it.

    Raises:
        FileNotFoundError: If a path's folder is not there.
    """
    parts = {}
    try:
        for path, write in writers.items():
            path = pathlib.Path(path)
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(path.parent))
            # another process may write it, too
            parts[path] = path.with_name(f"{path.name}.{os.getpid()}.part")
            write(parts[path])
        for path, part in parts.items():
            os.replace(part, path)
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise


def make_writable(folder):
    """Makes a folder where there is none; OSError, before any work, if nothing can be written."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part"):
        pass


def write_text(path, text):
    """Writes a file of text in UTF-8, whatever the locale, likewise."""
    replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def digest(path):
    """The SHA-256 of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def read_text(path):
    """The text of such a file, as it is: lines end as they do there."""
    return pathlib.Path(path).read_bytes().decode()


def read_report(path):
    """The dict that a report in json holds; an empty one where there is no such report."""
    try:
        found = json.loads(pathlib.Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


#: In a folder that one process writes at a time.
LOCK_FILE = ".lock"
#: What file systems without locks answer, as of clusters and of some containers.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder, wait=False):
    """Keeps other processes out of a folder, and removes what a killed one left half written.

    The lock ends with the process, however that ends. Where the system or the file system has no
    locks, there is none, and nothing is removed.

    Args:
        folder: One that exists.
        wait: Whether to wait until another process is done.

    Raises:
        ValueError: If another process has it, and `wait` is off; says which.
    """
    with open(pathlib.Path(folder) / LOCK_FILE, "a+") as lock:
        if _is_locked(lock, folder, wait):
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {socket.gethostname()}")
            lock.flush()
            for part in pathlib.Path(folder).glob("*.part"):
                part.unlink(missing_ok=True)
        yield


def _is_locked(lock, folder, wait):
    """Locks the file of a folder, an open one; False where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        said = f"{folder} is being written by another process, {lock.read() or 'unknown'}"
        if not wait:
            raise ValueError(f"{said}.") from None
        print(f"{said}: this one waits for it", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"{folder} cannot be locked: no other process may write there", file=sys.stderr)
        return False
    return True


def save_arrays(path, arrays):
    """Writes arrays by name as NumPy's npz, under this very path: NumPy would add an ending."""
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_arrays(path):
    """What `save_arrays` wrote.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is no npz, or was damaged.
    """
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # NumPy, zipfile and zlib raise a dozen kinds
            raise ValueError(f"{path} is damaged: {error}") from error


def trial(*arguments, content=None):
    """Runs Python in a process of its own: some libraries crash or never end on a damaged file.

    Args:
        arguments: What `python` is given.
        content: Bytes of its standard input.

    Returns:
        What it says on standard output, or else how it was ended; "" where all is well, where an
        exception is raised, which will be raised here as well, or where there is no `python`.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # embedded, or an application's own
        return ""
    command = [sys.executable, *map(str, arguments)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"reading it takes more than {TRIAL_SECONDS} s"
    said = done.stdout.decode(errors="replace").strip()
    crashed = done.returncode not in (0, 1)
    return said or f"reading it crashes a process ({done.returncode})" * crashed


def table(header, rows):
    """A markdown table, or "None." without rows."""
    rows = list(rows)
    if not rows:
        return "None.\n"
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
