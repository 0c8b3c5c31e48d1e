"""What travels: checkpoints and plugins between the Hub and this machine, pinned, hashed, and complete or not there."""
