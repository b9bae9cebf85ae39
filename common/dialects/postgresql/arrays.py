"""Array literals, made at one go: psycopg makes an array value by value, which takes longer than writing the rows."""

from collections.abc import Sequence


def number_array(numbers: Sequence[int]) -> str:
    """Return an array literal of integers, or of booleans as 0 and 1."""
    return "{" + ",".join(map(str, numbers)) + "}"


def int_array(numbers: Sequence[int]) -> str:
    """Return an array literal of what is nothing but `int` or `bool`, in two thirds of the time: drivers give whole
    numbers of some types as text."""
    # As Python shows a list, but for the brackets.
    return "{" + str(list(numbers))[1:-1] + "}"


def text_array(texts: Sequence[str]) -> str:
    """Return an array literal of texts."""
    if not texts:
        return "{}"
    joined = "\0".join(texts).replace("\\", "\\\\").replace('"', '\\"')
    # No text in PostgreSQL holds a NUL, so none is cut here that the server would have taken.
    return '{"' + joined.replace("\0", '","') + '"}'
