"""When to run what: what the daemon does, without the engine, the store and the clock."""
