import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `pip install .` makes, built of a copy so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".*", "runs", "results", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_one_package(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    assert {name.split("/")[0] for name in names} == {
        "larq_seresnet",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    modules = ("seresnet.py", "__main__.py", "training/train.py", "training/study/paper.py")
    for module in (*modules, "export/convert.py"):
        assert f"larq_seresnet/{module}" in names


def test_the_wheels_package_imports_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    code = (
        "import larq_seresnet, larq_seresnet.training.config, larq_seresnet.export\n"
        "print(larq_seresnet.__file__, len(larq_seresnet.SEResNet14().layers))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.stdout.startswith(str(tmp_path)), process.stderr


def test_constraints_pin_everything_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.match(r"[a-z0-9-]+==\S+( ;|$)", line) for line in lines)
    needed = {
        re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
        for requirement in importlib.metadata.requires("larq_seresnet")
        if "==" not in requirement.split(";")[0]  # those are pinned where they are asked for
    }
    assert {"tensorflow", "larq-compute-engine", "pytest"} <= needed
    assert needed <= {line.split("==")[0] for line in lines}
