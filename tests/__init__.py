"""The tests, and the real parts they run against."""
