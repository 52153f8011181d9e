"""HTTP of a service: what its servers, gateway and predictor, take and refuse by the same rules, and how it is asked."""
