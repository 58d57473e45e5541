"""Run many trainings in local processes or on a Dask cluster, for a sweep or a search."""
