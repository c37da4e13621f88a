"""Examples: labelled prompts, and the runs that answer them, several at once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.budget import Budget
from fusion.core.errors import RunFailed
from fusion.core.result import Result
from fusion.pipeline.loader import PipelineGiven

Right = Callable[[str, Any], bool]
"""Compares an answer, given first, with the right one, given second."""
Watch = Callable[[int, int], object]
"""Takes the number of examples that are answered, and the number of all."""


class Example(NamedTuple):
    """A prompt with its right answer, and further inputs of the pipeline."""

    prompt: str
    gold: Any
    inputs: Mapping[str, Any] = {}


class Asking(NamedTuple):
    """Examples, the Fusion that asks them, and the limits within which it does."""

    fusion: Fusion
    examples: tuple[Example, ...]
    right: Right | None = None
    concurrency: int = 16
    within: Budget | str | None = None
    watch: Watch | None = None

    def results(self, pipeline: PipelineGiven) -> Iterator[tuple[Example, Result]]:
        """Yield each example with its Result, in their order. Raises RunFailed for the first run that fails."""
        waiting, left = deque[tuple[Example, RunHandle]](), iter(self.examples)
        try:
            for number in range(1, len(self.examples) + 1):
                while len(waiting) < self.concurrency and (example := next(left, None)) is not None:
                    waiting.append((example, self._started(pipeline, example)))
                yield waiting[0][0], _whole(waiting[0][1])
                waiting.popleft()
                if self.watch is not None:
                    self.watch(number, len(self.examples))
        finally:
            for _, handle in waiting:
                handle.stop()
            for _, handle in waiting:
                handle.wait()

    def _started(self, pipeline: PipelineGiven, example: Example) -> RunHandle:
        return self.fusion.start(
            example.prompt, pipeline=pipeline, inputs=example.inputs, within=self.within, cache="shared"
        )


def _whole(handle: RunHandle) -> Result:
    result = handle.wait()
    if result.status == "failed":
        said = result.error.message if result.error else "the run failed"
        raise RunFailed(said, result, exit_code=handle.exit_code) from handle.cause
    return result
