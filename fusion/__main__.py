"""The entry point: `python -m fusion` and the command `fusion`."""

import sys

from fusion import _ON_WINDOWS


def main() -> None:
    """Run the command line; refuse Windows before anything is imported that it lacks."""
    if sys.platform == "win32":
        sys.stderr.write(f"error: {_ON_WINDOWS}\n")
        sys.exit(2)
    from fusion.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
