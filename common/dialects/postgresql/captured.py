"""One captured table, and what its functions and triggers are called."""

from dataclasses import dataclass

from common.dialects.postgresql.naming import fitting, qualified
from common.ports.dialect import TableShape

_TRIGGER_NAME = "!rowferry capture"
"""AFTER triggers run in the order of their names: the application's own, which may write the row again, come later.
The table's number follows: a table that is captured by itself may become a partition of another that is captured."""
_TRUNCATE_TRIGGER_NAME = "!rowferry truncate"
_KEYS_TRIGGER_NAME = "~rowferry keys"
"""The last of the BEFORE triggers: the application's own may give the key."""
FUNCTION_PREFIXES = (
    "rowferry capture ",
    "rowferry truncate ",
    "rowferry reshaped ",
    "rowferry pinned ",
    "rowferry keys ",
)


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
    counted_elsewhere: tuple[tuple[str, str], ...] = ()
    """Columns of the key and the sequences that they count by, where another node gives the keys."""

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
    def pinned(self) -> str:
        """What the capture function calls where the session's settings would bend the values."""
        return self.function("rowferry pinned ")

    @property
    def keys(self) -> str:
        """What refuses a key that this database gave."""
        return self.function("rowferry keys ")

    @property
    def keys_trigger(self) -> str:
        return f"{_KEYS_TRIGGER_NAME} {self.table_id}"

    @property
    def keys_function_name(self) -> str:
        return fitting(f"rowferry keys {self.shape.name}")

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
