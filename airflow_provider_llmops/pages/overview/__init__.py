"""All registered models at a glance: champion and candidate, decision, metrics, cost, service and links."""
