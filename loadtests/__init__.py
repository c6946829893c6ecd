"""Everything that measures: run as `python -m loadtests.NAME`."""
