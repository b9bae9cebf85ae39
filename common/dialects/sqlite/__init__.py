"""SQLite: a touch log by triggers, sealed in short write transactions; one writer at a time is all the locking."""

from common.dialects.sqlite.database import SqliteDatabase

__all__ = ["SqliteDatabase"]
