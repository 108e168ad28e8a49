"""What a process is told that a pilot (shim/execute/pilot.py) starts in its engine's place: a variable. Pure."""

TAKEN_BACK = "REXEC_TAKEN_BACK"
"""The engine takes the place back: no job begins there any more."""
