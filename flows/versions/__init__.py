"""Versions by DVC and Git: stages, data, remotes, branches."""
