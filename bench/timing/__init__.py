"""Candidates timed together in fresh processes, and the conditions under which that was done."""
