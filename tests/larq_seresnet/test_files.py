import pytest

from larq_seresnet import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "log.csv"
    files.replace(path, lambda part: part.write_text("old"))

    def half(part):
        part.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.replace(path, half)
    assert [each.name for each in tmp_path.iterdir()] == ["log.csv"]
    assert path.read_text() == "old"
