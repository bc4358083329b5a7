import subprocess

from larq_seresnet.training import facts


def test_only_changed_code_makes_a_commit_dirty(tmp_path):
    """A report that is drawn anew between two runs does not."""
    (tmp_path / "training").mkdir()
    (tmp_path / "results").mkdir()
    code, report = tmp_path / "training" / "train.py", tmp_path / "results" / "README.md"
    code.write_text("1")
    report.write_text("1")
    assert facts.commit(code.parent) is None  # no checkout
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = facts.commit(code.parent)
    assert len(clean) == 7
    report.write_text("2")
    assert facts.commit(code.parent) == clean
    code.write_text("2")
    assert facts.commit(code.parent) == f"{clean}-dirty"
    code.write_text("1")
    study = code.parent / "study"
    study.mkdir()
    (study / "claims.py").write_text("1")
    assert facts.commit(code.parent, without=study) == clean
    assert facts.commit(code.parent) == f"{clean}-dirty"
    (code.parent / "new.py").write_text("1")
    assert facts.commit(code.parent, without=study) == f"{clean}-dirty"
    installed = tmp_path / ".venv" / "larq_seresnet"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("1")
    (tmp_path / ".gitignore").write_text(".venv")
    assert facts.commit(installed) is None  # this repository is another project's
