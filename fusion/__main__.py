"""The entry point: `python -m fusion` and the command `fusion`."""

import gc
import sys

from fusion import _ON_WINDOWS

_GARBAGE = 200_000
"""Objects between two garbage collections: modules and models live to the end of a command, and hold no garbage."""


def main() -> None:
    """Run the command line; refuse Windows before anything is imported that it lacks."""
    if sys.platform == "win32":
        sys.stderr.write(f"error: {_ON_WINDOWS}\n")
        sys.exit(2)
    gc.set_threshold(_GARBAGE)
    from fusion.cli.app import main as run

    try:
        run()
    finally:
        gc.freeze()  # or the interpreter would go through all objects once more at its end, for 0.1 s


if __name__ == "__main__":
    main()
