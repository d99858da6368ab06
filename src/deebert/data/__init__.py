"""Data sets: their contract, their sources, encoded sentences and scores."""
