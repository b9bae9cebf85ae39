"""Txs set aside: their table, what an operator does with them, and the broker's copies."""
