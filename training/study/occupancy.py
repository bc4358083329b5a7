"""How much of each feature map is used in the channel direction: which gates open, how often."""

import argparse
import pathlib

from larq_seresnet import programs
from larq_seresnet.export import source
from larq_seresnet.training import gates


def main(argv=None):
    """Measures a network on all training images; writes occupancy.md, .json, .png and .svg."""
    parser = argparse.ArgumentParser(
        description="Says which channels the gates of a trained network open for all of the images "
        "that it was trained on, for some, or for none, and draws it by depth.",
        allow_abbrev=False,
    )
    source.add_arguments(parser, tests=False)
    source.add_out_dir(parser)
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        model, images, directory = source.load(arguments, as_trained=True)
        found = gates.shares(gates.see(model, images.train[0]).open)
        if not found:
            raise ValueError(f"{arguments.source} has no gates of channels.")
        directory = pathlib.Path(arguments.out_dir or directory)
        directory.mkdir(parents=True, exist_ok=True)
        shown = f"{len(images.train[0]):,} training images of {images.name}"
        gates.write(found, directory, f"# Which channels open\n\n{model.name}, {shown}.\n\n")
    print(gates.table(found))


if __name__ == "__main__":
    main()
