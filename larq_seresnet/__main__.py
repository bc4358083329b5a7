"""The console command: `larq-seresnet COMMAND ...`, or `python -m larq_seresnet COMMAND ...`."""

import argparse
import importlib
import sys

#: By command: its module in this package, what of setup.py's extras it needs, what it does.
COMMANDS = {
    "train": ("training.train", "train", "train a SEResNet14 into a run directory"),
    "convert": ("export.convert", "export", "make a verified .tflite of a run or of weights"),
    "prune": ("export.prune", "export", "take out the channels that gates never open"),
    "verify": ("export.verify", "export", "check any such .tflite against Keras weights"),
    "benchmark": ("export.benchmark", "export", "bytes, memory, latency of every way to store it"),
    "reproduce": ("training.reproduce", "export", "train and report on the grids of a study"),
}


def main(argv=None):
    """Hands what follows the command to the program of that name.

    Raises:
        SystemExit: With 2 for a command that there is not, or whose packages are not installed.
    """
    parser = argparse.ArgumentParser(
        prog="larq-seresnet",
        description="SEResNet14 with 1-bit weights: train, convert, verify, benchmark.",
        epilog="COMMAND --help says what each takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    described = "\n".join(f"{name:10} {what}" for name, (_, _, what) in COMMANDS.items())
    parser.description += f"\n\n{described}"
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    given = list(sys.argv[1:] if argv is None else argv)
    command = parser.parse_args(given[:1]).command
    module, extra, _ = COMMANDS[command]
    try:
        program = importlib.import_module(f"larq_seresnet.{module}")
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("larq_seresnet"):
            raise
        parser.exit(
            2,
            f"{parser.prog}: error: {command} needs the package {missing.name}: "
            f'pip install "larq_seresnet[{extra}]".\n',
        )
    sys.argv[0] = f"{parser.prog} {command}"  # what its usage and errors begin with
    program.main(given[1:])


if __name__ == "__main__":
    main()
