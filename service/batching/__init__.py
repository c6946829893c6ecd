"""Which jobs share a step, and the thread that owns the device."""
