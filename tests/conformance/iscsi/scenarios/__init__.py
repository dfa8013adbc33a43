"""Scenarios that libiscsi, with its one thread, cannot make: several nexuses, stalls, lies."""
