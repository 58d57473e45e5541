"""Say by how much what a stage has made differs from what was recorded, and on what machine it was made."""
