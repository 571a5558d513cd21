"""Reading a config: YAML and overrides in, typed sections out, errors that say what to write instead."""

from __future__ import annotations

import copy
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raymine import storage
from raymine.config import Config
from raymine.errors import ConfigError
from raymine.select_config import FilterConfig

PATH_KEYS = (
    ("corpus", "path"),
    ("corpus", "vectors"),
    ("queries", "path"),
    ("queries", "vectors"),
    ("positives", "path"),
    ("retrieve", "run", "path"),
)
MODEL_KEYS = (("embed", "model"), ("rescore", "model"))


def load_config(path: str, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a YAML config.

    Args:
        path: the file or URL.
        overrides: "key.path=value" each; the value is YAML.

    Returns:
        The config, with every path absolute.

    Raises:
        ConfigError: unreadable, not YAML, an unknown key, a wrong value.
    """
    if not storage.exists(path):
        raise ConfigError(
            f"{path}: no such config file", expected="a YAML file", fix="write one with `raymine init DIR`"
        )
    try:
        raw = yaml.safe_load(storage.read_bytes(path).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML", got=str(error), fix="mend the file") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a mapping", got=type(raw).__name__, expected="sections: corpus, queries, ...")
    for override in overrides:
        _override(raw, override)
    base = storage.absolute(path).rsplit("/", 1)[0]
    return make_config(_with_absolute_paths(raw, base), path)


def make_config(raw: dict[str, Any], where: str = "config") -> Config:
    """A config from plain values.

    Raises:
        ConfigError: an unknown key (lists the valid ones) or a wrong value.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, where) for detail in error.errors())) from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set {override}", got="no `=`", expected="key.path=value", fix="e.g. --set select.sample.n=4"
        )
    *parents, last = key.split(".")
    section = raw
    for name in parents:
        inner = section.setdefault(name, {})
        if inner is None:
            inner = section[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}", got=f"{name} is {inner!r}", expected=f"{name} is a section")
        section = inner
    section[last] = yaml.safe_load(text)


def _with_absolute_paths(raw: dict[str, Any], base: str) -> dict[str, Any]:
    made = copy.deepcopy(raw)
    for *parents, last in PATH_KEYS:
        section = _section(made, parents)
        if isinstance(section.get(last), str):
            section[last] = storage.absolute(section[last], base)
    for *parents, last in MODEL_KEYS:
        section = _section(made, parents)
        if isinstance(section.get(last), str):
            section[last] = absolute_model(section[last], base)
    if isinstance(made.get("exclude"), list):
        made["exclude"] = [storage.absolute(p, base) if isinstance(p, str) else p for p in made["exclude"]]
    return made


def absolute_model(name: str, base: str = "") -> str:
    """A model's path made absolute; a hub name stays.

    A hub name looks like a relative path: it is a path when it exists or begins with a dot.

    Args:
        name: path, URL or hub name.
        base: folder that paths are relative to; default: the working folder.
    """
    candidate = storage.absolute(name, base)
    is_path = storage.is_url(name) or name.startswith((".", "/", "~")) or storage.exists(candidate)
    return candidate if is_path else name


def _section(raw: dict[str, Any], parents: list[str]) -> dict[str, Any]:
    section: Any = raw
    for name in parents:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def _explain(detail: Any, where: str) -> str:
    location = [part for part in detail["loc"] if part not in FILTER_CLASSES]
    name = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        valid = ", ".join(_valid_keys(location[:-1], detail["loc"]))
        expected = f"  got: {location[-1]}\n  expected: one of {valid}"
        return f"{where}: unknown key `{name}`\n{expected}\n  fix: correct or remove it"
    if detail["type"] == "missing":
        return f"{where}: `{name}` is missing\n  fix: add it"
    message = detail["msg"].removeprefix("Value error, ")
    got = "" if isinstance(detail["input"], dict) else f"\n  got: {detail['input']!r}"
    prefix = f"{where}: `{name}`" if name else where
    return f"{prefix}: {message}{got}"


FILTER_CLASSES = {cls.model_fields["kind"].annotation.__args__[0]: cls for cls in get_args(get_args(FilterConfig)[0])}


def _valid_keys(location: list[Any], raw_location: Any) -> list[str]:
    model: Any = Config
    for part in location:
        if part in FILTER_CLASSES:
            continue
        if isinstance(part, int):
            named = next((p for p in raw_location if p in FILTER_CLASSES), None)
            model = FILTER_CLASSES.get(named, model)
            continue
        model = _inner_model(model.model_fields[part].annotation)
    return list(model.model_fields)


def _inner_model(annotation: Any) -> Any:
    for candidate in [annotation, *getattr(annotation, "__args__", ())]:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return Config


def dump_yaml(config: Config) -> str:
    """The config as YAML, with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
