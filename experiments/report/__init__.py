"""What is made of many runs: tables and pages."""
