"""Views: what rich draws on a terminal."""
