"""Reports on many runs: tables and pages."""
