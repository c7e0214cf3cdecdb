"""Settings of single recipes as flags: `--scale-width 1.5` for the field scale_width of a recipe's config."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from ..recipes import Recipe, TrainConfig
from ..recipes.config import FROM_DATA
from .console import UsageError

NO_FLAGS = ("recipe", *FROM_DATA)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def flag(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def parse(recipe: Recipe, words: Sequence[str]) -> dict[str, Any]:
    """Settings from `--flag value` and `--flag=value` of flags that the command itself does not know.

    Raises:
        UsageError: no such flag, or its value is of another type.
    """
    types = {flag(name): (name, kind) for name, kind in recipe.config.types().items() if name not in NO_FLAGS}
    given: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word not in types:
            own = ", ".join(flag(f.name) for f in own_settings(recipe)) or "none"
            raise UsageError(f"No such option: {word}; settings of {recipe.name} alone: {own}")
        if not equals:
            if not rest:
                raise UsageError(f"{word}: no value given")
            value = rest.pop(0)
        name, kind = types[word]
        given[name] = _value(word, value, kind)
    return given


def _value(word: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        if typing.get_origin(kind) is tuple:
            element = typing.get_args(kind)[0]
            return tuple(element(part) for part in text.split(",") if part)
        return kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "numbers a,b,...")
        raise UsageError(f"{word}: {text!r} given, {wanted} accepted") from None


def words(config: TrainConfig) -> list[str]:
    """All settings as flags and values."""
    made: list[str] = []
    for name, value in config.as_dict().items():
        if name in NO_FLAGS:
            continue
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, (tuple, list)):
            text = ",".join(map(_text, value))
        else:
            text = _text(value)
        if text:
            made += [flag(name), text]
    return made


def _text(value: object) -> str:
    """A value, numbers in no more digits than bring them back exactly."""
    return short if isinstance(value, float) and float(short := f"{value:g}") == value else str(value)


def own_settings(recipe: Recipe) -> list[dataclasses.Field[Any]]:
    """Those that the recipe's config adds."""
    common = {f.name for f in dataclasses.fields(TrainConfig)} | set(NO_FLAGS)
    return [f for f in dataclasses.fields(recipe.config) if f.name not in common]


def settings_help(recipes: Sequence[Recipe]) -> str:
    """What `vdropkern train --help` says of flags that are not in its tables."""
    shared = [f for f in dataclasses.fields(TrainConfig) if "help" in f.metadata]
    parts = [
        f"[bold]{recipe.name}[/bold]: {_list(own)}" for recipe in recipes if (own := own_settings(recipe))
    ]
    parts.insert(0, f"[bold]all recipes[/bold]: {_list(shared)}")
    return "\n\n".join(parts)


def _list(fields: Sequence[dataclasses.Field[Any]]) -> str:
    return "; ".join(f"{flag(f.name)} ({f.metadata.get('help', '')})" for f in fields)
