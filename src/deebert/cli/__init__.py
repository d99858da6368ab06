"""The command `deebert`: a file per subcommand. What takes long to import is imported once it is needed."""
