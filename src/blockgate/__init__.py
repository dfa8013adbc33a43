"""blockgate: one gateway that exports files and devices as network block devices."""

__version__ = "0.1.0"
