"""What volferry can do: one file each. They take all they need as arguments and do no I/O of their own."""
