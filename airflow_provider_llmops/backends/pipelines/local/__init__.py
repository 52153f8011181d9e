"""Pipeline runs on this machine: detached processes of the data plane's interpreter, one directory for each run."""
