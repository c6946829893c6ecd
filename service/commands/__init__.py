"""What the commands of the command line do, one noun a file. Importing them loads nothing heavy.

drawing     generate, edit: one job, its files, its receipt
local       ... run here
remote      ... run by a server
fields      what the user said, as a request; errors, as the user's flags
files       pictures that are written
serving     serve, key
inspecting  inspect
terminal    what stderr is told
"""
