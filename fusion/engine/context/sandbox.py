"""Sandbox of a stage: each command runs once; its end is a decision in the journal, which a resumed run reads."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion.core.events import CommandFinished
from fusion.core.types import Finished, ProcessLimits
from fusion.sandbox.base import Command
from fusion.stages.context import StageSandbox

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunSandbox(StageSandbox):
    """The sandbox that the settings of a run choose, with a journal of its commands.

    A command is known by a digest of its arguments, files, input and limits. An equal one of the same stage, or of a
    resumed run, gets the same end without running again.
    """

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx

    async def run(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        limits: ProcessLimits | None = None,
        item: int | None = None,
        plain: str | None = None,
    ) -> Finished:
        command = Command.of(argv, files=files, stdin=stdin, limits=limits, plain=plain)
        name = f"sandbox {_digest(command)}"
        kept = self._ctx.journal.kept(name, item=item)
        if kept is not None:
            ended = Finished(**kept)
            self._emit(command, ended, item, reused=True)
            return ended
        await self._ctx.run.recorder.journal.written()  # what led to it is not paid for twice
        ended = await self._ctx.run.spec.sandbox.run(command)
        ended = ended._replace(seconds=round(ended.seconds, 3))
        self._ctx.journal.keep(name, ended._asdict(), item=item)
        self._emit(command, ended, item)
        return ended

    def _emit(self, command: Command, ended: Finished, item: int | None, *, reused: bool = False) -> None:
        ctx = self._ctx
        item, _ = ctx.placed(item, "")
        ctx.emit(
            CommandFinished(
                run_id=ctx.run.run_id,
                stage=ctx.place,
                item=item,
                program=command.program[:100],
                by=ended.by,
                code=ended.code,
                stopped_by=ended.stopped_by,
                seconds=ended.seconds,
                reused=reused,
            )
        )


def _digest(command: Command) -> str:
    """Return the digest of all that the end of a command depends on, limits by their given values."""
    parts: list[Any] = [
        command.argv,
        [[name, hashlib.sha256(content).hexdigest()] for name, content in sorted(command.files.items())],
        hashlib.sha256(command.stdin).hexdigest(),
        command.limits.model_dump(),
    ]
    text = json.dumps(parts, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
