"""Standard streams, signals, and how processes start and end."""
