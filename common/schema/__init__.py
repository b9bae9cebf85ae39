"""The `rf_*` tables that all dialects share, as SQLAlchemy Core tables."""
