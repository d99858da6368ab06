"""What thresholds cost and save on labelled texts that somebody brings."""
