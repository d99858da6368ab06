"""Both trainings: of the backbone and of the ramps."""
