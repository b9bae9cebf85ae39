"""Names and literals as PostgreSQL writes them. Nothing from a catalog or a batch reaches SQL but through here."""

import hashlib

_MAX_NAME_BYTES = 63


def ident(name: str) -> str:
    """Return `name` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as a string constant that means the same whatever `standard_conforming_strings` says."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def qualified(schema: str | None, name: str) -> str:
    """Return `schema.name`, both quoted; bare where there is no schema."""
    return f"{ident(schema)}.{ident(name)}" if schema else ident(name)


def wire_name(schema: str, bare: str, default_schema: str) -> str:
    """Return a table's name on the wire and in the configuration: dots inside a name are doubled."""
    doubled = bare.replace(".", "..")
    return doubled if schema == default_schema else f"{schema.replace('.', '..')}.{doubled}"


def fitting(name: str) -> str:
    """Return `name`, cut to what PostgreSQL keeps of it; a digest takes the place of what was cut."""
    encoded = name.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: _MAX_NAME_BYTES - 9].decode(errors="ignore") + "~" + digest


def parts_of(name: str) -> tuple[str | None, str]:
    """Return schema, if there is one, and table that a name on the wire stands for."""
    parts = [""]
    for place, piece in enumerate(name.split(".")):
        # An empty piece between two dots is a doubled dot.
        if place and piece and parts[-1] and not parts[-1].endswith("."):
            parts.append("")
        parts[-1] += piece or ("." if place else "")
    return parts[0] if len(parts) == 2 else None, parts[-1]


def relation_of(name: str) -> str:
    """Return the quoted relation that a name on the wire stands for."""
    return qualified(*parts_of(name))
