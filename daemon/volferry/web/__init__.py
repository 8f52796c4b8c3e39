"""What other machines ask of the daemon, by HTTP."""
