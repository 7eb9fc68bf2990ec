"""One definition of each feature, for training and for scoring."""
