"""What this machine is: cores, instruction sets, memory. Read from the system, never guessed.

Needs no torch. Measured speeds belong to the benches (`evaluate/ceiling.py`), not here.
"""
