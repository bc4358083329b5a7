import errno

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


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no such folder: .*gone'$"):
        files.replace(tmp_path / "gone" / "own.npz", lambda part: part.write_text("new"))


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    files.make_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        files.make_writable(tmp_path / "file")


def test_of_files_that_belong_together_none_is_new_unless_all_are(tmp_path):
    def write(text):
        return lambda part: part.write_text(text)

    names = [tmp_path / "lce.tflite", tmp_path / "lce.md"]
    files.replace_all({path: write("old") for path in names})
    with pytest.raises(ZeroDivisionError):
        files.replace_all({names[0]: write("new"), names[1]: lambda part: 1 / 0})
    assert sorted(tmp_path.iterdir()) == sorted(names)
    assert [path.read_text() for path in names] == ["old", "old"]


def test_a_folder_on_a_file_system_without_locks_is_written_without_one(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "of_another.part").touch()
    fcntl = pytest.importorskip("fcntl")

    def refuse_with(code):
        def refuse(*arguments):
            raise OSError(code, "no locks")

        monkeypatch.setattr(fcntl, "flock", refuse)

    for code in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        refuse_with(code)
        with files.locked(tmp_path), pytest.raises(KeyError):
            raise KeyError
        said = f"{tmp_path} cannot be locked: no other process may write there"
        assert said in capsys.readouterr().err
    assert (tmp_path / "of_another.part").exists()
    refuse_with(errno.EIO)
    with pytest.raises(OSError, match="no locks"), files.locked(tmp_path):
        pass
