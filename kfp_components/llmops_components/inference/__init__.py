"""Asking served models: one client for OpenAI's API and KServe's V1 and V2 protocols, and a dataset in, its answers out."""
