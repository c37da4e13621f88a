"""The command line: typer commands that show what the client does."""
