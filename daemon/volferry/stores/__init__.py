"""Where objects live: a directory, or a bucket and prefix. Knows nothing of what is in them."""
