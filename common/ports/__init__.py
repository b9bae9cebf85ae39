"""What the parts expect from each other: Protocols and the records they pass. No code that acts."""
