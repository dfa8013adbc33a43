"""The state of a gateway through kills: real daemons, real files, the real API."""
