"""Stage kinds: each is one frozen class that a YAML node becomes, and that runs itself."""
