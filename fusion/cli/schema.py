"""`fusion schema`: the JSON Schema of pipeline files, for editors."""

__all__ = ["schema"]


def schema() -> None:
    """Print the JSON Schema of pipeline files."""
    import json

    from fusion import spec
    from fusion.cli.terminal import write

    write(f"{json.dumps(spec.json_schema(), indent=2, ensure_ascii=False)}\n")
