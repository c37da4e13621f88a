"""Options of the commands: each declared once, as a field of the class that its command receives."""
