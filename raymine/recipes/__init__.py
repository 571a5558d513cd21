"""Recipes: how others choose negatives, as a few lines of config each, to be printed, copied and changed.

A recipe has the sections that say where candidates come from and which become negatives. MODEL and TEACHER stand for
the models.
"""

from __future__ import annotations

from importlib import resources

from raymine.errors import ConfigError


def names() -> list[str]:
    """The recipes there are."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe(name: str) -> str:
    """A recipe's YAML, comments included.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in names():
        raise ConfigError(f"there is no recipe {name!r}", got=name, expected=f"one of {', '.join(names())}")
    return (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
