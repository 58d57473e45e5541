"""Find drift: test whether new images, or recorded predictions, are still like the training images."""
