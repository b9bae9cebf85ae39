"""How the audit names whoever did something over HTTP."""

BY_TOKEN = " by token "
"""Between a name and the number of the token that it came with."""


def actor_of(name: str, token_id: str) -> str:
    """Return it for the audit."""
    return f"{name}{BY_TOKEN}{token_id}"


def name_of(actor: str) -> str:
    """Return the name alone, as a person reads it."""
    return actor.partition(BY_TOKEN)[0]
