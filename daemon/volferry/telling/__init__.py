"""Telling people and other machines what happens: messages and pings."""
