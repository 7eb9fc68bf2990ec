"""What is written for engines."""
