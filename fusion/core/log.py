"""Log: the logger `fusion`, for diagnostics that are not events of a run.

It prints nothing until an application asks for it, as libraries do:

    logging.basicConfig(level=logging.INFO)
    logging.getLogger("fusion").setLevel(logging.DEBUG)

WARNING: a store that cannot be read or written. INFO: a source that lacks an embedded model's weights. DEBUG: failed
attempts, and checksums that cannot be kept. Keys of the environment are masked in every message.
"""

import logging

from fusion.core.config.secrets import secrets

_SHORTEST = 8
"""Characters of the shortest key that is masked, as in replies."""


class _Redaction(logging.Filter):
    """Puts `[NAME]` in place of a key in a message, after its arguments are filled in."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _redacted(record.getMessage()), None
        return True


def _redacted(text: str) -> str:
    for name, key in secrets().items():
        if len(key := key.strip()) >= _SHORTEST:
            text = text.replace(key, f"[{name}]")
    return text


LOG = logging.getLogger("fusion")
LOG.addHandler(logging.NullHandler())
LOG.addFilter(_Redaction())
