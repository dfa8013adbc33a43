"""Real NBD clients against a real gateway, over every transport, on both I/O paths."""
