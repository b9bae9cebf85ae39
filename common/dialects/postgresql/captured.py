"""One captured table, and what its functions and triggers are called."""

from dataclasses import dataclass

from common.dialects.postgresql.naming import fitting, qualified
from common.ports.dialect import TableShape

_TRIGGER_NAME = "!rowferry capture"
"""AFTER triggers run in the order of their names: the application's own, which may write the row again, come later.
The table's number follows: a table that is captured by itself may become a partition of another that is captured."""
_TRUNCATE_TRIGGER_NAME = "!rowferry truncate"
FUNCTION_PREFIXES = ("rowferry capture ", "rowferry truncate ", "rowferry reshaped ")


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """One table as capture is to be made for it."""

    shape: TableShape
    home: str
    """The schema of the `rf_*` tables."""
    table_id: int
    shape_id: int
    partitioned: bool = False
    leaves: tuple[tuple[str, str], ...] = ()
    """Its leaf partitions, as (schema, name)."""
    owner: str = ""
    append_only: bool = False
    """Updates, deletes and TRUNCATE are refused."""

    def function(self, prefix: str, ending: str = "") -> str:
        return qualified(self.home, fitting(f"{prefix}{self.shape.name}{ending}"))

    @property
    def capture(self) -> str:
        return self.function("rowferry capture ")

    @property
    def truncate(self) -> str:
        return self.function("rowferry truncate ")

    @property
    def reshaped(self) -> str:
        """What the capture function calls for a row that is not of the shape it was made for."""
        return self.function("rowferry reshaped ")

    @property
    def capture_trigger(self) -> str:
        return f"{_TRIGGER_NAME} {self.table_id}"

    @property
    def truncate_trigger(self) -> str:
        return f"{_TRUNCATE_TRIGGER_NAME} {self.table_id}"

    @property
    def function_names(self) -> tuple[str, str]:
        """Of the two trigger functions, as the catalog has them."""
        return fitting(f"rowferry capture {self.shape.name}"), fitting(f"rowferry truncate {self.shape.name}")

    @property
    def log(self) -> str:
        return qualified(self.home, "rf_change_log")
