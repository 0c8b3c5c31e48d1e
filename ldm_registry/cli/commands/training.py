"""`ldm train`."""

COMMANDS = ()
