"""The workspace: file formats shared by stages, atomic writes, the lock, errors."""
