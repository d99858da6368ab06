"""What everything stands on: errors, files, the frame of a stage, devices."""
