"""The routes of ``/v1``, one module for each kind of thing.

A route takes a request apart, calls one use case and gives its result back; it decides nothing.
"""
