"""Names of types as `format_type` writes them, taken apart and put together anew: nothing else gets through."""

import re
from dataclasses import dataclass

from common.dialects.postgresql.naming import ident

_WORDS = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "double precision",
        "boolean",
        "character",
        "character varying",
        "bit",
        "bit varying",
    }
)
"""Names of the grammar, which would mean nothing, or something else, in quotes."""
_ZONED = re.compile(r"(timestamp|time)(\(\d\))? (with|without) time zone", re.ASCII)
_INTERVAL = re.compile(
    r"interval( (?:year|month|day|hour|minute|second)(?: to (?:month|hour|minute|second))?)?(\(\d\))?", re.ASCII
)
_PLAIN = re.compile(r"([a-z]+(?: [a-z]+)?)(\(-?\d{1,6}(?:,-?\d{1,6})?\))?", re.ASCII)
_PART = r'[a-z_][a-z0-9_]*|"(?:[^"\0]|"")+"'
_OWN = re.compile(
    rf"(?:(?P<schema>{_PART})\.)?(?P<name>{_PART})(?P<sizes>\((?:\w{{1,30}}|-?\d{{1,9}})(?:,-?\d{{1,9}})?\))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type that can be written into a statement."""

    schema: str | None
    name: str
    """Without quotes; of a type of the grammar all of it, with its size: `numeric(10,2)`."""
    sizes: str
    array: bool
    is_word: bool
    """A type of the grammar: it is there in every database."""

    @property
    def bare(self) -> str:
        """The quoted name without size and brackets, as `to_regtype` takes it."""
        if self.is_word:
            return self.name
        return f"{ident(self.schema)}.{ident(self.name)}" if self.schema else ident(self.name)

    @property
    def sql(self) -> str:
        """All of it."""
        return f"{self.bare}{self.sizes}{'[]' if self.array else ''}"

    @property
    def without_schema(self) -> tuple[str, str, bool]:
        """What is the same wherever the type stands."""
        return self.name, self.sizes, self.array


def parse_type(declared: str) -> TypeName | None:
    """Return the type that `declared` names; None where it is none that `format_type` could have written."""
    array = declared.endswith("[]")
    text = declared.removesuffix("[]")
    plain = _PLAIN.fullmatch(text)
    if _ZONED.fullmatch(text) or _INTERVAL.fullmatch(text) or (plain and plain[1] in _WORDS):
        return TypeName(None, text, "", array, True)
    found = _OWN.fullmatch(text)
    if found is None:
        return None
    schema = found["schema"]
    return TypeName(schema and _unquoted(schema), _unquoted(found["name"]), found["sizes"] or "", array, False)


def _unquoted(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part
