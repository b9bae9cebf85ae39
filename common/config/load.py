"""Reads `rowferry.toml`, the `ROWFERRY_…` variables and secret files into a checked `Config`."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import sqlalchemy as sa
from pydantic import ValidationError

from common.config.explain import Origins, explain
from common.config.model import NO_PATH, SERVER_FILES, TLS_FILES, BrokerSection, Config, PeerSection, ServerSection
from common.config.secrets import SECRETS, refuse_readable_by_others, secrets_in_sight
from common.config.urls import OF_SQLALCHEMY
from common.config.variables import overlay
from common.errors import ConfigError

DEFAULT_FILE = "rowferry.toml"


def config_path(given: str | None, environ: Mapping[str, str]) -> Path:
    """Return which file to read: `--config`, else `ROWFERRY_CONFIG`, else `rowferry.toml` here."""
    return Path(given or environ.get("ROWFERRY_CONFIG") or DEFAULT_FILE)


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration of `path`. Raises ConfigError that names file, key, value and remedy.

    Single settings may stand in variables (`ROWFERRY_NODE_ID`, `ROWFERRY_PEERS__MAIN__URL`), secrets in files
    (`database_file`, `url_file`). Relative paths count from the file's own folder, also those in variables.
    """
    tree, _ = _read(path)
    origins = Origins(path, overlay(tree, os.environ if environ is None else environ))
    folder = path.resolve().parent
    for section, key in SECRETS:
        _from_secret_file(tree, section, key, folder, origins)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, origins)) from error
    anchored = _anchored(config, folder)
    if anchored.broker is not None:
        _check_tls_files(anchored.broker, "broker", TLS_FILES, origins)
    _check_tls_files(anchored.server, "server", SERVER_FILES, origins)
    for name, peer in anchored.peers.items():
        if peer.token_file is not None and peer.token_file.exists():
            refuse_readable_by_others(peer.token_file, origins.where(("peers", name, "token_file")))
    return anchored


def exposed_secrets(path: Path) -> list[tuple[str, str]]:
    """Return the settings in `path` itself that hold a secret which others can read, each with the remedy.

    Raises ConfigError where it can't be read."""
    tree, mode = _read(path)
    return secrets_in_sight(mode, tree)


def read_secret_file(file: Path, where: str) -> str:
    """Return what a secret file holds. Raises ConfigError, naming `where`, when others may read it or it is missing."""
    try:
        refuse_readable_by_others(file, where)
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise _unreadable(file, where, error) from error


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Return what stands in the file, and its mode."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            # Some editors on Windows begin a file with a mark of its encoding.
            tree = tomllib.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; write one with `rowferry init --node ID --database URL` or name it with --config"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as TOML: {error}") from error
    return tree, mode


def _from_secret_file(tree: dict[str, Any], section: str, key: str, folder: Path, origins: Origins) -> None:
    inner = tree.get(section)
    if not isinstance(inner, dict) or f"{key}_file" not in inner:
        return
    if key in inner:
        raise ConfigError(f"{origins.file}: {section}.{key} and {section}.{key}_file are both set: remove one of them")
    given, where = inner.pop(f"{key}_file"), origins.where((section, f"{key}_file"))
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{where}: {NO_PATH}")
    inner[key] = read_secret_file(folder / given, where)


def _check_tls_files(
    section: BrokerSection | ServerSection, name: str, settings: tuple[str, ...], origins: Origins
) -> None:
    """Refuse files that are missing, and a key that others can read: without a key file the certificate's holds it."""
    secret = "tls_key_file" if section.tls_key_file else "tls_cert_file"
    for setting in settings:
        file: Path | None = getattr(section, setting)
        if file is None:
            continue
        where = origins.where((name, setting))
        try:
            file.open("rb").close()
        except OSError as error:
            raise _unreadable(file, where, error) from error
        if setting == secret:
            if setting == "tls_cert_file" and _is_certificate_alone(file):
                raise ConfigError(f"{where}: {file} holds no private key: set {name}.tls_key_file")
            refuse_readable_by_others(file, where)


def _is_certificate_alone(file: Path) -> bool:
    text = file.read_bytes()
    return b"BEGIN CERTIFICATE-----" in text and b"PRIVATE KEY-----" not in text


def _unreadable(file: Path, where: str, error: OSError | ValueError) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
    if isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError):
        # A name that no file can have.
        why = str(error)
    return ConfigError(f"{where}: {file} can't be read: {why}")


def _anchored(config: Config, folder: Path) -> Config:
    node = config.node.model_copy(update={"database": _anchored_url(config.node.database, folder)})
    changes: dict[str, Any] = {"node": node}
    if config.directory is not None:
        changes["directory"] = config.directory.model_copy(update={"path": folder / config.directory.path})
    if config.broker is not None:
        files: dict[str, Any] = _anchored_files(config.broker, TLS_FILES, folder)
        changes["broker"] = config.broker.model_copy(
            update=files | {"url": _anchored_broker(config.broker.url, folder)}
        )
    server = config.server.model_copy(update=_anchored_files(config.server, SERVER_FILES, folder))
    if server != config.server:
        changes["server"] = server
    changes["peers"] = {
        name: peer.model_copy(update=_anchored_files(peer, ("token_file", "tls_ca_file"), folder))
        for name, peer in config.peers.items()
    }
    return config.model_copy(update=changes)


def _anchored_files(
    section: BrokerSection | PeerSection | ServerSection, settings: tuple[str, ...], folder: Path
) -> dict[str, Path]:
    named = {name: getattr(section, name) for name in settings}
    return {name: folder / file for name, file in named.items() if file is not None}


def _anchored_broker(url: str, folder: Path) -> str:
    """Return `url`, the folder or the SQLite file of a broker that kombu makes of one counted from `folder`."""
    scheme, _, rest = url.partition("://")
    path, mark, options = rest.partition("?")
    if scheme == "filesystem" and path:
        return f"{scheme}://{quote(str(folder / unquote(path)))}{mark}{options}"
    kind, plus, database = url.partition("+")
    return f"{kind}+{_anchored_url(database, folder)}" if plus and kind in OF_SQLALCHEMY else url


def _anchored_url(url: str, folder: Path) -> str:
    """Return `url`, a relative SQLite file counted from `folder`."""
    scheme, separator, rest = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or rest.startswith("/") or rest in ("", ":memory:"):
        return url
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Whoever opens it says what is wrong with it.
        return url
    # Written by whom it is read by: in the folder's own name a ? or %41 would be taken for something else.
    return parsed.set(database=str(folder / (parsed.database or ""))).render_as_string(hide_password=False)
