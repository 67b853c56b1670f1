"""What the operating system gives: files, processes and threads, the environment, JSON documents.

`files` reads what others may change meanwhile; `workers` are processes and threads beside the main
one; `environment` says what programs inherit; `docker_config` reads docker's config.json; `schema`
checks JSON from outside.

May import errors only.
"""
