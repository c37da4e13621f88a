"""Code in an answer: the content of its code blocks, or all of it."""

import re
from typing import Final, Literal

from fusion.core.bounded import clock

Block = Literal["longest", "last", "whole"]
"""Part of an answer that is code: its longest or its last code block, or the whole answer."""
_OPENING: Final = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[^`\n]*")


def code_in(answer: str, block: Block = "longest") -> str:
    """Return the code in an answer: a block of it, or the whole answer if it has no block.

    >>> code_in("Here it is:\\n```python\\nx = 1\\n```\\nIt sets x.")
    'x = 1\\n'
    """
    blocks = [] if block == "whole" else blocks_in(answer)
    if not blocks:
        return answer
    return blocks[-1] if block == "last" else max(blocks, key=len)


def blocks_in(answer: str) -> list[str]:
    """Return the code blocks of an answer, in their order; one that is left open ends with the answer."""
    blocks: list[str] = []
    mark, lines = "", list[str]()
    for line in answer.splitlines(keepends=True):
        clock.check()
        bare = line.strip()
        if not mark:
            opened = _OPENING.fullmatch(line.rstrip("\r\n"))
            mark, lines = (opened[1], []) if opened else ("", [])
        elif bare.startswith(mark) and not bare.strip(mark[0]):
            blocks.append("".join(lines))
            mark = ""
        else:
            lines.append(line)
    return [*blocks, "".join(lines)] if mark else blocks
