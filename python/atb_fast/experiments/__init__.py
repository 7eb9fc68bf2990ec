"""Many trainings: executors, trials and studies, and comparisons of runs."""
