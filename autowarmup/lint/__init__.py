"""What the warm-up in a framework's configuration file really is, in optimizer steps."""
