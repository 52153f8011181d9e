"""Groups of tasks that the example DAGs are made of, for DAGs of others: one for each product, not written twice."""
