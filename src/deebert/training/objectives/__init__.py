"""What a fine-tuning step can minimise: one module per objective, named as the parameter's value."""
