"""When to leave."""
