"""What a run shows, as PNG files in memory."""
