"""What a Unix daemon needs around its work: configuration, logs, sockets, systemd, a stall monitor.

Nothing here knows volumes or exports; `blockgate.daemon` puts it together with what does.
"""
