"""How names are written: quoted in SQL, with doubled dots on the wire."""


def quote(name: str) -> str:
    """Return `name` as an SQL identifier, whatever stands in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def wire_name(bare: str) -> str:
    """Return a table's name for the wire: a dot of its own is doubled, so it can't be read as `schema.name`."""
    return bare.replace(".", "..")


def bare_name(wire: str) -> str:
    """Return a table's own name for that on the wire."""
    return wire.replace("..", ".")


def same_name(left: str, right: str) -> bool:
    """Tell whether SQLite takes two names for one: it folds the case of ASCII letters only."""
    return fold(left) == fold(right)


def fold(name: str) -> str:
    """Return the form under which SQLite compares names."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def log_table(shape_id: int) -> str:
    """Return the touch log that belongs to one remembered shape."""
    return f"rf_log_{shape_id}"
