"""A real Linux kernel as the client of a real gateway."""
