"""Encoders that early exit works on."""
