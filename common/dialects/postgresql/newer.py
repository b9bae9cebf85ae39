"""What PostgreSQL 18 knows of constraints and earlier ones do not.

Read from the row as JSON: a column that a server does not have is no error there."""

ENFORCED = "coalesce((pg_catalog.to_jsonb(f) ->> 'conenforced')::boolean, true)"
"""Whether the foreign key `f` is looked after at all; one that is `NOT ENFORCED` says only what is meant."""
OF_PERIODS = "coalesce((pg_catalog.to_jsonb(f) ->> 'conperiod')::boolean, false)"
"""Whether the constraint `f` goes by periods: `WITHOUT OVERLAPS`, and foreign keys with `PERIOD`."""
