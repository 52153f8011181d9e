"""Serving: a manifest carried out, the predictor that answers, and what runs services on this machine."""
