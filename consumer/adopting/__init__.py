"""`adopt`: the first sync of databases that both have rows.

Rows that stood before `migrate` have no version, so nobody can tell which side is right where two nodes differ. The
sides are compared as `verify` does it (`consumer.verifying`); of each row that differs the side that is chosen seals
its image once, as it stands, with the weakest version there is (`giving`). It travels like any change, and who had
another image keeps that as a conflict (`consumer.apply.decision`).
"""
