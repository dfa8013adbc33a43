"""libiscsi's `iscsi-test-cu`, each test by itself on a set of units, held against a committed list.

CUnit knows no skip: a test that does not apply says CU_PASS("[SKIPPED] ..."), or just returns, and
counts as passed. So the runner watches every assertion (`witness.c`) and the log, and counts by
itself; `silent.py` lists what the suite does not say in so many words.
"""
