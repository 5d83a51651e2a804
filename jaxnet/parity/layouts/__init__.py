"""What each leaf of a port is of the reference's leaves."""
