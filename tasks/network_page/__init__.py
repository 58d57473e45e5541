"""Make the page that shows the numbers flowing through the trained network, and one step of learning."""
