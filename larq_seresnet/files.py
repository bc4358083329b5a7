"""How this package writes files, and tables in them."""

import os
import pathlib

import numpy as np


def replace(path, write):
    """Writes a file beside `path`, then puts it in its place: there is never half a file.

    Args:
        path: Where to; a file that is there stays until the new one is complete.
        write: Called with the path of the file beside it, which it must write.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save_arrays(path, arrays):
    """Writes arrays by name as NumPy's npz, under this very path: NumPy would add an ending."""
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def table(header, rows):
    """A markdown table, or "None." without rows."""
    rows = list(rows)
    if not rows:
        return "None.\n"
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
