"""What a person could run: a file per library behind one interface, each contender in a process of its own."""
