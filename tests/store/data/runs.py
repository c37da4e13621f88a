"""The runs of the store of version 0.1.0, in the order in which they began."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Past:
    """A run of the store: how it is listed, its stages with the number of calls of each, and its answer."""

    status: str
    pipeline: str
    calls: int
    usd: str
    stages: str
    answer: str = ""
    tag: str = ""
    unknown: int = 0
    sessions: int = 1
    content: str = "full"


RUNS = {
    "planned": Past(
        "ok",
        "planned",
        10,
        "0.0084560",
        "plan ok 1, work ok 3, check ok 5, answer ok 1",
        answer="merged of result 1, smooth 2, result 3",
    ),
    "chain": Past(
        "ok",
        "chain",
        5,
        "0.0014560",
        "facts ok 2, draft ok 2, answer ok 1",
        answer="final of The gauge was read at midnight, and at noon it was read again.",
    ),
    "reviewed": Past(
        "partial",
        "reviewed",
        6,
        "0.0050519",
        "read ok 4, check ok 3",
        answer="The level of Oslo is 1.20.\n\nThe level of Bergen is 0.95.",
    ),
    "panel": Past(
        "ok", "panel", 5, "0.0038680", "panel ok 3, compare ok 1, answer ok 1", answer="written out of three"
    ),
    "vote": Past(
        "ok",
        "vote",
        3,
        "0",
        "panel ok 3, vote ok 0",
        answer='{"answer": "12", "agreement": 0.6666666666666666}',
        unknown=3,
    ),
    "cascade": Past("ok", "cascade", 3, "0.0014280", "answer ok 3", answer="It is 12."),
    "route": Past("ok", "route", 2, "0.0014140", "answer ok 2", answer="final of the way"),
    "nested": Past(
        "ok",
        "outer",
        4,
        "0.0028280",
        "first ok 1, sub ok 0, sub/draft ok 1, sub/better ok 1, last ok 1",
        answer="final of better than inner",
    ),
    "document": Past(
        "ok",
        "document",
        9,
        "0.0070560",
        "parts ok 0, notes ok 4, answer ok 5",
        answer="merged of noted 1, noted 2, noted 3, noted 4",
    ),
    "rendered": Past(
        "partial",
        "rendered",
        4,
        "0.0000560",
        "read ok 4, answer ok 0",
        answer="| place | level |\n| --- | --- |\n| Oslo | 1.2 |\n| Bergen | 0.95 |\n\nTotal: 2.15",
    ),
    "picture": Past("ok", "picture", 1, "0.001400", "answer ok 1", answer="a grey square"),
    "cached-first": Past("ok", "words", 2, "0.0000280", "work ok 2, answer ok 0", answer="<a> <b>"),
    "cached-second": Past("ok", "words", 1, "0.0000140", "work ok 2, answer ok 0", answer="<b> <c>"),
    "failed": Past("failed", "chain", 3, "0.0000420", "facts ok 2, draft ok 1, answer failed 1"),
    "unusable": Past("failed", "chain", 2, "0.0000280", "facts failed 2"),
    "budget": Past("failed", "planned", 4, "0.0028280", "plan ok 1, work failed 3, check failed 2, answer open 0"),
    "interrupted": Past(
        "interrupted", "outer", 2, "0.0809980", "first ok 1, sub open 0, sub/draft ok 1, sub/better open 0"
    ),
    "resumed": Past(
        "ok", "chain", 4, "0.0022526", "facts ok 2, draft ok 1, answer ok 1", answer="final of drafted", sessions=2
    ),
    "branched": Past(
        "ok",
        "chain",
        1,
        "0.001400",
        "facts ok 2, draft ok 2, answer ok 1",
        tag="chain",
        answer="FINAL OF The gauge was read at midnight, and at noon it was read again.",
    ),
    "branch-interrupted": Past(
        "interrupted", "chain", 0, "0.08163", "facts ok 2, draft ok 2, answer open 0", tag="chain"
    ),
    "digest": Past("ok", "chain", 4, "0.0014420", "facts ok 2, draft ok 1, answer ok 1", content="digest"),
    "digest-failed": Past(
        "failed", "chain", 3, "0.0000420", "facts ok 2, draft ok 1, answer failed 1", content="digest"
    ),
    "off": Past("ok", "chain", 4, "0.0014420", "facts ok 2, draft ok 1, answer ok 1", content="off"),
    "killed-resumed": Past(
        "ok",
        "planned",
        10,
        "0.0654190",
        "plan ok 1, work ok 3, check ok 5, answer ok 1",
        answer="merged of result 1, smooth 2, result 3",
        sessions=2,
    ),
    "killed": Past("died", "planned", 6, "0.0597810", "plan ok 1, work open 2, check open 1"),
}
