"""Where bytes may lie: memory of the host, of a device, files."""
