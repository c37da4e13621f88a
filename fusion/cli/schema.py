"""`fusion schema`: the JSON Schema of pipeline files, for editors."""


def schema() -> None:
    """Print the JSON Schema of pipeline files."""
    from fusion.cli.terminal import write

    write(schema_text())


def schema_text() -> str:
    """The JSON Schema of pipeline files as it stands in a file."""
    import json

    from fusion import spec

    return f"{json.dumps(spec.json_schema(), indent=2, ensure_ascii=False)}\n"
