"""How much of each feature map is used in the channel direction: which gates open, how often."""

import argparse
import pathlib

from larq_seresnet import programs
from larq_seresnet.export import source
from larq_seresnet.training import config, data, fitting, gates


def main(argv=None):
    """Measures a finished run on all training images; writes occupancy.md, .json, .png and .svg."""
    parser = argparse.ArgumentParser(
        description="Says which channels the gates of a finished run open for all training images, "
        "for some, or for none, and draws it by depth, into the run directory.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", type=pathlib.Path, metavar="RUN_DIR")
    run_dir = parser.parse_args(argv).run_dir
    with programs.refusing_bad_input(parser):
        found = of_run(run_dir)
        if not found:
            raise ValueError(f"{run_dir} has no gates of channels.")
        gates.write(
            found, run_dir, f"# Which channels open\n\n{run_dir.name}, all training images.\n\n"
        )
    print(gates.table(found))


def of_run(run_dir):
    """What `gates.shares` says of a finished run and its training images; {} without gates."""
    settings, facts = config.load(run_dir)
    source.locate(run_dir)  # says what is missing of a run that is not finished
    model = fitting.trained(run_dir, settings, len(facts["class_names"]))
    return gates.shares(gates.see(model, data.of_run(settings).train[0]).open)


if __name__ == "__main__":
    main()
