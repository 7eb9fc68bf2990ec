"""What people look at: report.html and training.png."""
