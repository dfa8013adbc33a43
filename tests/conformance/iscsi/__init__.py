"""Conformance of the iSCSI target: libiscsi's suite, its tools, and scenarios of our own."""
