"""Which rows stand in their tables: never two with one unique value, never a child without its parent.

A row's version, image or tombstone converges by the policy of its table. Whether it also stands there follows from the
rows' versions and images alone (`theory`), so it is the same on every node whatever the order of arrival."""
