"""What config.json says of a run besides its arguments: its data, its code, its machine."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess

import larq_seresnet
from larq_seresnet.training import data, machine, strategies, teacher

PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")
#: What decides on a run besides its arguments: two packages, without the study.
CODE = (pathlib.Path(larq_seresnet.__path__[0]), pathlib.Path(__file__).parent)
NOT_CODE = pathlib.Path(__file__).with_name("study")


def of_run(settings, images, epochs, earlier, synchronized):
    """The facts of a run; those of before stay, if it goes on.

    Args:
        settings: Its `Config`.
        images: Its `data.ImageSet`.
        epochs: Those that follow, a range counted from 0; where there are none, nothing is noted.
        earlier: Its facts of before, or none.
        synchronized: Whether BatchNorm is synchronised over replicas.

    Raises:
        ValueError: If it goes on with other images, or with a teacher of other weights.
    """
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    code = {
        "commit": commit(*CODE, without=NOT_CODE),
        "versions": {"python": platform.python_version(), **versions},
        "processor": f"{os.cpu_count()} cores of {machine.processor()}",
        "replicas": strategies.count(),
    }
    if strategies.count() > 1:
        code["synchronize_batch_norm"] = synchronized
    taught = {}
    if settings.teacher is not None:
        teacher.check(settings.teacher, images, settings.held_out)
        taught = {"teacher_sha256": teacher.digest(settings.teacher)}
    if not earlier:
        return {**of_data(images), **taught, **code}
    check_data(earlier, images)
    if bool(taught) != ("teacher_sha256" in earlier):
        began = "with" if "teacher_sha256" in earlier else "without"
        raise ValueError(f"the run began {began} a teacher, received `teacher` {settings.teacher}.")
    if earlier.get("teacher_sha256") != taught.get("teacher_sha256"):
        raise ValueError(f"`teacher` {settings.teacher} has other weights than the run began with.")
    if not epochs:
        return earlier
    resumed = [*earlier.get("resumed", []), {"after_epoch": epochs.start, **code}]
    return {**earlier, "resumed": resumed}


def of_data(images):
    """What tells the images of a `data.ImageSet` from others."""
    return {
        "class_names": list(images.class_names),
        "train_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "train_images_sha256": data.digest(images.train[0]),
        "test_images_sha256": data.digest(images.test[0]),
    }


def check_data(facts, images, names=None):
    """Raises ValueError if the facts on a run's data, or those of them named, are of others."""
    for name, value in of_data(images).items():
        if (names is None or name in names) and facts.get(name, value) != value:
            raise ValueError(
                f"the data must be those that the run began with: `{name}` was {facts[name]}, "
                f"is {value} now."
            )


def digest_of_code():
    """The SHA-256 of what decides on a run besides its arguments: tells changes between commits."""
    found = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in folder.rglob("*.py")):
        if NOT_CODE not in path.parents:
            found.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()


def commit(*folders, without=None):
    """What git calls the code in some folders, "-dirty" at its end where that was changed.

    Args:
        folders: Of the code.
        without: A folder in them whose changes do not count.

    Returns:
        None outside of a checkout: where it was installed from a wheel, be it into a folder of
        another repository.
    """
    paths = [*folders, *([f":(exclude){without}"] if without else [])]

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=folders[0], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not all(git("ls-files", "--", folder) for folder in folders):
            return None
        name, changes = git("describe", "--always"), git("status", "--porcelain", "--", *paths)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}-dirty" if changes else name
