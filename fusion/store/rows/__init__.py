"""Rows: the values that a store keeps of runs and maps."""

from fusion.store.accounts import Drawing as Drawing
from fusion.store.rows.maps import (
    LinesFound as LinesFound,
    MapCounts as MapCounts,
    MapEnded as MapEnded,
    MapEntry as MapEntry,
    MapPass as MapPass,
    MapRow as MapRow,
    MapStarted as MapStarted,
    RowOrder as RowOrder,
    RowSeen as RowSeen,
    RowStarted as RowStarted,
)
from fusion.store.rows.runs import (
    Attempt as Attempt,
    AttemptEnd as AttemptEnd,
    AttemptState as AttemptState,
    Cached as Cached,
    Call as Call,
    CallIndex as CallIndex,
    CallState as CallState,
    Content as Content,
    Decision as Decision,
    Ended as Ended,
    Line as Line,
    Noticed as Noticed,
    RunFilter as RunFilter,
    RunRow as RunRow,
    RunState as RunState,
    RunStatus as RunStatus,
    SessionStart as SessionStart,
    SetAside as SetAside,
    Spending as Spending,
    Started as Started,
    Timing as Timing,
)

Row = (
    Started
    | SessionStart
    | Ended
    | Call
    | SetAside
    | Attempt
    | AttemptEnd
    | Decision
    | Noticed
    | Cached
    | MapStarted
    | MapPass
    | MapEnded
    | RowStarted
    | RowSeen
    | LinesFound
    | Drawing
)
