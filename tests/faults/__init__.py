"""Bad peers, bad disks, and power that goes: what fails, and who does not notice."""
