"""Trains one run: sets it up, trains, saves and resumes it."""
