"""What a check finds: a fault with its place, and whether it keeps the whole input out."""

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """Which check found it."""

    FORMAT = "format"
    CHECKSUM = "checksum"
    SIGNATURE = "signature"
    DUPLICATE = "duplicate"
    GAP = "gap"
    REQUIRES = "requires"
    TABLE = "table"
    DDL = "ddl"
    REWOUND = "rewound"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault."""

    check: Check
    refuses: bool
    """The whole input is refused; else it is told and the import goes on."""
    message: str
    file: str | None = None
    line: int | None = None
    tx_id: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the finding as `--json` prints it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"check": self.check.value}

    @property
    def place(self) -> str:
        """Where it is, for people."""
        if self.file is None:
            return ""
        # What reads the lines names the one itself.
        return self.file if self.line is None or self.message.startswith("line ") else f"{self.file}, line {self.line}"
