"""Packaging: one package, whose `training` and `export` live beside it in the checkout."""

import pathlib
import re

from setuptools import setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "larq_seresnet/__init__.py").read_text())[1]

TRAIN = [
    "importlib_resources",  # tensorflow-datasets needs it to prepare CIFAR-10 and does not say so
    "matplotlib",
    "psutil",
    "scikit-learn",
    "scipy>=1.15",
    "tensorboard",
    "tensorflow-datasets>=4.9.9",
]
EXPORT = ["ai-edge-litert>=2.3,<3", "flatbuffers", "larq-compute-engine>=0.16,<0.17"]
#: A development build, the only ones there are: it may be gone one day, so `dev` does without.
TFLM = ["tflite-micro==0.dev20261023182759"]

setup(
    name="larq_seresnet",
    version=VERSION,
    description="SEResNet14 with 1-bit weights and channel Feature Map Binarization for Keras",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=[
        "larq_seresnet",
        "larq_seresnet.training",
        "larq_seresnet.training.study",
        "larq_seresnet.training.xla",
        "larq_seresnet.export",
    ],
    package_dir={"larq_seresnet.training": "training", "larq_seresnet.export": "export"},
    entry_points={"console_scripts": ["larq-seresnet = larq_seresnet.__main__:main"]},
    package_data={"larq_seresnet": ["weights/*.npz", "weights/README.md"]},
    install_requires=[
        "h5py",
        "larq>=0.14,<0.15",
        "numpy<2",
        "pillow",
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
    ],
    extras_require={
        "train": TRAIN,
        "export": TRAIN + EXPORT,
        "tflm": TRAIN + EXPORT + TFLM,
        "dev": TRAIN + EXPORT + ["mypy", "pytest", "pytest-xdist", "ruff", "setuptools>=70"],
    },
)
