"""Other nodes' changes, in: intake, inbox, applying, dead letters."""
