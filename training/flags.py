"""The flags of a run, made of the table in `config`, and back to a command line."""

import argparse
import dataclasses
from typing import Any

from larq_seresnet.training import config

_RECIPE_FIELDS = [field.name for field in dataclasses.fields(config.Recipe)]


def add_to(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Gives `parser` one flag a field of `Config`; what is not given stays unset.

    Returns:
        The groups the flags stand in, by name.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config.Config):
        group, options = field.metadata["group"], dict(field.metadata["options"])
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        help = field.metadata["help"]
        if field.name in _RECIPE_FIELDS:
            values = {name: vars(recipe)[field.name] for name, recipe in config.RECIPES.items()}
            help += f" (default*: {', '.join(f'{name} {each}' for name, each in values.items())})"
        elif field.default not in (None, ()):
            help += f" (default: {format_value(field.default)})"
        if isinstance(field.default, bool) or field.name == "flip":
            options["action"] = argparse.BooleanOptionalAction
        groups[group].add_argument(
            "--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, help=help, **options
        )
    return groups


def words(arguments: dict[str, Any]) -> list[str]:
    """Fields of `Config` with their values as words of a command line."""
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            found += [f"--{flag}", *map(_word, values)]
    return found


def format_value(value: Any) -> str:
    """A field's value as one types it on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(_word, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _word(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else format_value(value)
