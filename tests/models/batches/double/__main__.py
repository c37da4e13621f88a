"""Serve the double in this process until it is ended, and print its address."""

import asyncio
import sys

from tests.models.batches.double.server import listening
from tests.models.batches.double.state import Books


async def main() -> None:
    _, address = await listening(Books())
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
