"""What the scikit-learn faces of torch networks share."""
