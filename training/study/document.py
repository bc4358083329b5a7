"""Reports as files."""

from larq_seresnet import files

#: In a folder of results: what every report there begins with, such as that its data are old ones.
NOTICE = "notice.md"


def write(path, text):
    """Writes a report; the `NOTICE` that lies beside it comes first."""
    notice = path.with_name(NOTICE)
    first = f"{notice.read_text().strip()}\n\n" if notice.exists() else ""
    files.write_text(path, first + text)
