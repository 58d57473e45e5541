"""The command line and the commands that are no flow."""
