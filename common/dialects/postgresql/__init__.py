"""PostgreSQL: capture by triggers, sealing by the difference of snapshots, set-based applying."""

from common.dialects.postgresql.database import PostgresDatabase

__all__ = ["PostgresDatabase"]
