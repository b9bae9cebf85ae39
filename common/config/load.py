"""Reads `rowferry.toml`, the `ROWFERRY_…` variables and secret files into a checked `Config`."""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.config.model import Config
from common.errors import ConfigError

DEFAULT_FILE = "rowferry.toml"
_PREFIX = "ROWFERRY_"
_NOT_SETTINGS = ("ROWFERRY_CONFIG", "ROWFERRY_TEST_", "ROWFERRY_REQUIRE_")
_SECRETS = (("node", "database"), ("broker", "url"))


def config_path(given: str | None, environ: Mapping[str, str]) -> Path:
    """Return which file to read: `--config`, else `ROWFERRY_CONFIG`, else `rowferry.toml` here."""
    return Path(given or environ.get("ROWFERRY_CONFIG") or DEFAULT_FILE)


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration of `path`. Raises ConfigError that names file, key, value and remedy.

    Single settings may stand in variables (`ROWFERRY_NODE_ID`, `ROWFERRY_BROKER_URL`), secrets in files
    (`database_file`, `url_file`). Relative paths count from the file's own folder.
    """
    tree = _read(path)
    _overlay(tree, os.environ if environ is None else environ)
    folder = path.resolve().parent
    for section, key in _SECRETS:
        _from_secret_file(tree, section, key, folder, path)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(path, error)) from error
    return _anchored(config, folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; write one with `rowferry init --node ID --database URL` or name it with --config"
        ) from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as TOML: {error}") from error


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        if not name.startswith(_PREFIX) or name.startswith(_NOT_SETTINGS):
            continue
        section, _, key = name.removeprefix(_PREFIX).lower().partition("_")
        if section not in Config.model_fields or not key:
            raise ConfigError(f"variable {name}: there is no section [{section}]; it must be ROWFERRY_SECTION_KEY")
        inner = tree.setdefault(section, {})
        inner[key] = value.split(",") if key in ("include", "exclude", "listen") else value


def _from_secret_file(tree: dict[str, Any], section: str, key: str, folder: Path, source: Path) -> None:
    inner = tree.get(section)
    if not isinstance(inner, dict) or f"{key}_file" not in inner:
        return
    file = folder / str(inner.pop(f"{key}_file"))
    where = f"{source}: {section}.{key}_file"
    try:
        mode = file.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{where}: {file} can be read by others; chmod 600 it")
        inner[key] = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{where}: {file} can't be read: {error.strerror}") from error


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for one in error.errors(include_url=False):
        key = ".".join(str(step) for step in one["loc"]) or "the file"
        given = "" if one["type"] == "missing" or not one["loc"] else f" (given: {_masked(key, one['input'])})"
        remedy = "there is no such setting; take it out or correct its name" if one["type"] == "extra_forbidden" else ""
        lines.append(f"{path}: {key}: {remedy or one['msg']}{given}")
    return "\n".join(lines)


def _masked(key: str, value: object) -> str:
    return "…" if key.endswith(("url", "database", "password", "key")) else repr(value)


def _anchored(config: Config, folder: Path) -> Config:
    node = config.node.model_copy(update={"database": _anchored_url(config.node.database, folder)})
    changes: dict[str, Any] = {"node": node}
    if config.directory is not None:
        changes["directory"] = config.directory.model_copy(update={"path": folder / config.directory.path})
    return config.model_copy(update=changes)


def _anchored_url(url: str, folder: Path) -> str:
    """Return `url`, a relative SQLite file counted from `folder`."""
    scheme, separator, rest = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or rest.startswith("/") or rest in ("", ":memory:"):
        return url
    return f"{scheme}:///{folder / rest}"
