"""``python -m blockgate`` is the command ``blockgate``."""

from blockgate.cli.main import main

main()
