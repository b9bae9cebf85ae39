"""Whole txs into the database: many in one commit, one by one where something is wrong, huge ones in slices."""
