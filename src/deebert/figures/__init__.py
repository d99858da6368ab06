"""Rows to drawings."""
