"""The `ROWFERRY_…` variables: which setting each of them is, and that it wins over the file."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from common.config.model import Config
from common.config.secrets import SECRETS, Setting
from common.errors import ConfigError

_PREFIX = "ROWFERRY_"
_NOT_SETTINGS = ("ROWFERRY_CONFIG", "ROWFERRY_TEST_", "ROWFERRY_REQUIRE_")
_LEVEL = "__"
_BY_TABLE = ("policy", "keys")
_LISTS = frozenset(
    {("tables", "include"), ("tables", "exclude"), ("broker", "listen"), ("broker", "peers"), ("server", "proxies")}
)


def overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[Setting, str]:
    """Put what the variables say into `tree`, and return which of them gave what.

    The keys are settings, and the sections that stand there for a variable's sake alone. Raises ConfigError for a
    variable that can be no setting, for one that may mean two, and for two that say the same."""
    given: dict[Setting, str] = {}
    made: dict[Setting, str] = {}
    # Those with a name in them come last: it is looked up among what the file and the others say.
    for name in sorted(_ours(environ), key=lambda one: (_has_name(*_split(one)), one)):
        setting = _setting(name, tree)
        _refuse_second(name, setting, given)
        if _put(tree, setting, _value(setting, environ[name]), name, made):
            given[setting] = name
    return made | given


def with_variables(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what is told of settings, with the variables that give them: whoever mends one looks into the file."""
    variables = {}
    for name in _ours(os.environ if environ is None else environ):
        try:
            variables[_setting(name, {})] = name
        except ConfigError:
            # It has been told, or is about to be.
            continue
    return text + told_of(text, variables)


def told_of(text: str, variables: Mapping[Setting, str]) -> str:
    """Return which of the settings that `text` names were given by variables, unless it names these already."""
    notes = [
        f" ({'.'.join(setting)} is given by the variable {name})"
        for setting, name in sorted(variables.items())
        if name not in text and _is_whole(setting, variables) and _names(text, setting)
    ]
    return "".join(notes)


def _is_whole(setting: Setting, variables: Mapping[Setting, str]) -> bool:
    """Tell a setting from a section that stands there for its sake."""
    return not any(other[: len(setting)] == setting for other in variables if other != setting)


def _names(text: str, setting: Setting) -> bool:
    """Tell whether `text` is about a setting, or the whole that it is a part of: `tables.keys`, `[node] database`."""
    section, *inner = next((plain for plain in SECRETS if setting in _twins(plain)), setting)
    wholes = [re.escape(".".join(inner[:length])) for length in range(len(inner), 0, -1)]
    return re.search(rf"(?<![\w.])(?:{section}\.|\[{section}\] )(?:{'|'.join(wholes)})(?!\.?\w)", text) is not None


def _ours(environ: Mapping[str, str]) -> Iterator[str]:
    return (name for name in environ if name.startswith(_PREFIX) and not name.startswith(_NOT_SETTINGS))


def _split(name: str) -> tuple[str, str]:
    """Return section and rest of a variable's name. One underscore or two stand between them."""
    section, _, rest = name.removeprefix(_PREFIX).partition("_")
    section, rest = section.lower(), rest.removeprefix("_")
    if section not in Config.model_fields or not rest:
        raise ConfigError(f"variable {name}: there is no section [{section}]; it must be ROWFERRY_SECTION_KEY")
    return section, rest


def _has_name(section: str, rest: str) -> bool:
    return section in ("peers", "signers") or (section == "tables" and rest.partition(_LEVEL)[0].lower() in _BY_TABLE)


def _setting(name: str, tree: Mapping[str, Any]) -> Setting:
    """Return which setting a variable is, a node's or a table's name in it spelt as in `tree`. Raises ConfigError."""
    section, rest = _split(name)
    if not _has_name(section, rest):
        return section, rest.lower()
    if section == "signers":
        return section, _spelt(rest, _nodes(tree), name)
    if section == "peers":
        peer, _, key = rest.rpartition(_LEVEL)
        if not peer or not key:
            raise ConfigError(f"variable {name}: it must be ROWFERRY_PEERS__NAME__KEY, like ROWFERRY_PEERS__MAIN__URL")
        return section, _spelt(peer, _nodes(tree), name), key.lower()
    rule, _, table = rest.partition(_LEVEL)
    if not table:
        raise ConfigError(f"variable {name}: it must be ROWFERRY_TABLES__{rule.upper()}__TABLE, one for each table")
    return section, rule.lower(), _spelt(table, _tables(tree), name)


def _spelt(given: str, known: Iterable[str], variable: str) -> str:
    """Return the one of the `known` names that is meant, else a new name in small letters. Raises ConfigError."""
    fits = sorted({one for one in known if _as_in_variables(one) == _as_in_variables(given)})
    if len(fits) > 1:
        raise ConfigError(
            f"variable {variable}: it may mean {' or '.join(map(repr, fits))}; set it in the file instead"
        )
    return fits[0] if fits else given.lower()


def _as_in_variables(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def _nodes(tree: Mapping[str, Any]) -> list[str]:
    names = [*_inside(tree, "peers"), *_inside(tree, "signers"), *_inside(tree, "broker", "peers")]
    names += [*_inside(tree, "broker", "listen"), *_inside(tree, "node", "main"), *_inside(tree, "node", "id")]
    return names


def _tables(tree: Mapping[str, Any]) -> list[str]:
    return [name for key in (*_BY_TABLE, "include", "exclude") for name in _inside(tree, "tables", key)]


def _inside(tree: Mapping[str, Any], *path: str) -> list[str]:
    """Return the names at a place of `tree`, which nobody has checked yet: a section's keys, a list's texts, a text."""
    found: Any = tree
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    names = [found] if isinstance(found, str) else found if isinstance(found, (dict, list)) else ()
    return [name for name in names if isinstance(name, str)]


def _refuse_second(name: str, setting: Setting, given: Mapping[Setting, str]) -> None:
    """Refuse a variable beside another one for the same setting. A secret and its file are one."""
    for same in (setting, *_twins(setting)):
        if same in given:
            raise ConfigError(f"variables {given[same]} and {name} both set the same setting: remove one of them")


def _twins(setting: Setting) -> list[Setting]:
    """Return the other places in which a secret may stand: the file of its own, or the setting itself."""
    pairs = [(plain, (*plain[:-1], f"{plain[-1]}_file")) for plain in SECRETS]
    return [other for pair in pairs if setting in pair for other in pair if other != setting]


def _value(setting: Setting, text: str) -> str | list[str]:
    if setting in _LISTS or setting[0] == "signers":
        return [one.strip() for one in text.split(",") if one.strip()]
    return text


def _put(tree: dict[str, Any], setting: Setting, value: str | list[str], name: str, made: dict[Setting, str]) -> bool:
    """Set it in `tree`. False where the file has something else than a section there, which will be told of it."""
    inner = tree
    for depth, step in enumerate(setting[:-1], start=1):
        at = setting[:depth]
        if step not in inner:
            inner[step] = {}
            made[at] = name
        elif at in made:
            made[at] += f", {name}"
        inner = inner[step]
        if not isinstance(inner, dict):
            return False
    inner[setting[-1]] = value
    # A secret that the file keeps elsewhere is the same setting.
    for twin in _twins(setting):
        inner.pop(twin[-1], None)
    return True
