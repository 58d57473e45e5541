"""Say in which state the project is, from files alone: no server is asked."""
