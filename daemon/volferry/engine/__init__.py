"""Everything that talks to Docker: volumes, helper, channels. Knows no format and no store."""
