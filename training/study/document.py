"""Reports as files."""

from larq_seresnet import files

#: In a folder of results: what every report there begins with, such as that its data are old ones.
NOTICE = "notice.md"


def write(path, text):
    """Writes a report; the `NOTICE` that lies beside it comes first."""
    first = notice(path.parent)
    files.write_text(path, first + "\n\n" * bool(first) + text)


def notice(folder):
    """The `NOTICE` of a folder, or ""."""
    path = folder / NOTICE
    return files.read_text(path).strip() if path.exists() else ""
