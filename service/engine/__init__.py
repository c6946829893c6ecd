"""One edit: align, detect, plan, denoise, decode."""
