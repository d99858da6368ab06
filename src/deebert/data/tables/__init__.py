"""Files of rows, read and written a chunk at a time: a file per format."""
