"""The operations page: sessions, forms, layout and what the whole node tells. Each part adds pages of its own."""
