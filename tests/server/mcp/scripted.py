"""`fusion` on scripted models of every id: `python -m tests.server.mcp.scripted mcp … -m scripted/slow`."""

import functools
from unittest.mock import patch

from fusion.client.client import Fusion
from tests.cli.scripted import models

if __name__ == "__main__":
    from fusion.cli.app import main

    with patch.object(Fusion, "__init__", functools.partialmethod(Fusion.__init__, models=models())):
        main()
