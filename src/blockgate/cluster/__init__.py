"""The cluster's state: the store behind a small port, its migrations, its locks and secrets."""
