"""The life cycle of volumes in each kind of pool: make, grow, rename, remove, find again."""
