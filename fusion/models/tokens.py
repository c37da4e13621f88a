"""Bounds of the tokens that a request has as input: by bytes, or closer by a tokenizer with a margin.

The tokenizer is p50k, whose vocabulary is small: of the texts of 24 languages, code, tables, digits, base64 and emoji
measured in `tests/models/test_tokens.py`, cl100k, o200k, and the tokenizers of Anthropic and DeepSeek count at most
1.06 times as many tokens, except for long runs of one character, which `_RUN` bounds.
"""

import asyncio
import base64
import functools
import hashlib
import importlib.util
import math
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusion.core.types import Message, Request
from fusion.models.base import input_bound

if TYPE_CHECKING:
    from tiktoken import Encoding

_MARGIN: Final = 1.25
_RUN: Final = 24
"""Bytes of a repeated character that any tokenizer takes as one token, at most."""
_PIECE: Final = 20_000
"""Characters that are tokenized at once, so that no text takes more than linear time."""
_LARGE: Final = 16_000
"""Bytes from which on a text is tokenized in a thread."""
_KEPT: Final = 512
_RANKS: Final = "litellm_core_utils/tokenizers/ec7223a39ce59f226a68acc30dc1af2788490e15"
"""The ranks of p50k in litellm's wheel, named by the SHA-1 of their address, as tiktoken's cache does."""


class TokenBounds:
    """Bounds by the tokenizer, the latest kept by the digest of their text."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, int] = OrderedDict()

    async def of(self, request: Request) -> int:
        """Return the bound of a request, without keeping the event loop from its work."""
        if sum(message.size for message in request.messages) < _LARGE:
            return self.now(request)
        return await asyncio.to_thread(self.now, request)

    def now(self, request: Request) -> int:
        """Return the bound of a request; that by bytes if it is lower, or without a tokenizer."""
        saved = sum(self._saved(message) for message in request.messages)
        return input_bound(request) - saved

    def _saved(self, message: Message) -> int:
        """Return the tokens that the bound of a message is below its bytes."""
        text = message.content.encode(errors="replace")
        key = hashlib.sha256(text).digest()
        known = self._kept.get(key)
        if known is None:
            known = self._kept[key] = max(0, len(text) - _bound(message.content, len(text)))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return known


class InlineBounds(TokenBounds):
    """Bounds computed at once, for a simulated clock that no thread may hold up."""

    async def of(self, request: Request) -> int:
        return self.now(request)


class Margins:
    """The excess of what providers count over the bounds by the tokenizer, by model; learned from their replies."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._ratios

    def over(self, model_id: str, bound: int) -> int:
        """Return a bound by the tokenizer with the margin of a model."""
        return math.ceil(bound * self._ratios.get(model_id, 1.0))

    def learn(self, model_id: str, bound: int, counted: int) -> None:
        """Raise the margin of a model to what its provider has counted over a bound by the tokenizer."""
        self._ratios[model_id] = max(self._ratios.get(model_id, 1.0), counted / bound)


def _bound(text: str, size: int) -> int:
    encoding = _encoding()
    if encoding is None:
        return size
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    tokens = sum(len(encoding.encode_ordinary(piece)) for piece in pieces)
    return max(math.ceil(_MARGIN * tokens), size // _RUN)


@functools.cache
def _encoding() -> "Encoding | None":
    """Return p50k, from the wheel of litellm; None if that has no ranks."""
    spec = importlib.util.find_spec("litellm")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / _RANKS
    if path is None or not path.is_file():
        return None
    from tiktoken import Encoding
    from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]  # no stubs

    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return Encoding("p50k", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
