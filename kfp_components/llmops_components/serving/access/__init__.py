"""Who may ask a service, how much, and what is noted of it: keys, quotas, an audit log, TLS. Standard library only."""
