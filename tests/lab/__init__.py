"""Machinery that tests share: real processes, file systems that fail on demand."""
