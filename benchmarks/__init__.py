"""What is claimed of speed and quality, measured."""
