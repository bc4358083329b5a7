from larq_seresnet.training.study import document


def test_a_report_begins_with_the_notice_that_lies_beside_it(tmp_path):
    report = tmp_path / "README.md"
    document.write(report, "# Errors\n")
    assert report.read_text() == "# Errors\n"
    (tmp_path / document.NOTICE).write_text("**Of old images.**\n")
    document.write(report, "# Errors\n")
    assert report.read_text() == "**Of old images.**\n\n# Errors\n"
