"""Starting a node from another one's rows, with their versions and with how far they go.

    FrozenLook ─ exporting ─→ file ─ importing ─→ one transaction: rows, versions, marks, letters, conflicts

Whatever comes afterwards, by whichever way, meets a node that knows what it would know had it applied everything
itself: what the rows hold already is recognised, and what they lack is taken.
"""
