"""Retouch: an image edited by editing its prompt."""
