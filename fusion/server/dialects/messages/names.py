"""Names of models, as clients of Anthropic's API list them: they begin with claude or anthropic."""

from typing import Final

_PREFIX: Final = "anthropic/"
_TAKEN: Final = ("claude", "anthropic")


def listed_name(name: str) -> str:
    """Return the name of a model for a list that Claude Code reads.

    >>> listed_name("fusion/single")
    'anthropic/fusion/single'
    >>> listed_name("claude-review")
    'claude-review'
    """
    return name if name.startswith(_TAKEN) else f"{_PREFIX}{name}"


def own_name(name: str) -> str:
    """Return the name of a model without the prefix of the list.

    >>> own_name("anthropic/fusion/single")
    'fusion/single'
    """
    return name.removeprefix(_PREFIX)
