"""`billing`, the operators' command line: it talks to the admin API of the service, and to its health page, and to nothing else."""
