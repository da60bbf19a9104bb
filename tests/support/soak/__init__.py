"""Long runs, and what they leave behind."""
