"""Keep versions by DVC and Git: of stages, data, remotes and branches."""
