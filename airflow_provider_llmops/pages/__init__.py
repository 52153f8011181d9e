"""Reports, data docs and model cards of runs on this machine, shown by Airflow's web server to whoever may see the DAG."""
