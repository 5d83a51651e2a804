"""In which layer two programs part: what goes through each, and each one alone."""
