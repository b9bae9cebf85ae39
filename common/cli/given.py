"""What every argument of the command line has to be, whichever command takes it."""

import copy
from typing import Any

import click

from common.visible import visible


class Given(click.ParamType[Any]):
    """A text or a path, as another type reads it, that is not empty and that a database can take.

    What is empty is most often a variable that was never set: as a path it would mean the folder here, as a choice the
    default. Bytes that are no UTF-8 reach Python as lone surrogates, which only the name of a file may have."""

    def __init__(self, inner: click.ParamType[Any], *, may_be_empty: bool = False) -> None:
        self.inner = inner
        self.name = inner.name
        self._may_be_empty = may_be_empty

    def get_metavar(self, *arguments: Any, **keywords: Any) -> str | None:
        """See click: the help shows the type that reads it."""
        return self.inner.get_metavar(*arguments, **keywords)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as the inner type has it. Usage errors name the argument."""
        if isinstance(value, str):
            metavar = (param.metavar if param is not None else None) or ""
            is_list = "," in metavar or metavar == "NAMES"
            if not self._may_be_empty and not (value.replace(",", "").strip() if is_list else value):
                self.fail("it is empty; leave it out, or give a value", param, ctx)
            if not (isinstance(self.inner, click.Path) or "FILE" in metavar) and not _is_text(value):
                self.fail(f"{visible(value)!r} is not text in UTF-8", param, ctx)
        return self.inner.convert(value, param, ctx)


ANY_TEXT = Given(click.STRING, may_be_empty=True)
"""Of a key, for example: an empty one is a value too."""


def checked(param: click.Parameter) -> click.Parameter:
    """Return a copy of `param` that takes only what somebody can mean."""
    if not (isinstance(param.type, click.Path) or param.type is click.STRING):
        return param
    own = copy.copy(param)
    own.type = Given(param.type)
    return own


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)
