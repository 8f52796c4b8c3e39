"""The command line: the only place that wires configuration, engine, store and operations together."""
