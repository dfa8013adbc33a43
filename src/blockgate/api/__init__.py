"""The REST API: thin routes over `blockgate.control`, its server, and who may call what."""
