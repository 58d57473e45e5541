"""Many trainings: local processes or a Dask cluster, a sweep over seeds, the trials of a search."""
