"""Bytes and formats: listing, tar stream, frames, packs, index, manifest. Knows no engine and no store."""
