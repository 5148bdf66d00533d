"""What one notebook alone uses; it is to stand in its cells."""
