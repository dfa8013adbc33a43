"""blockgate beside its peers on this machine: `make bench`. Never part of the tests."""
