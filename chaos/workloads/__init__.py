"""What clients do while things break, and what they write down for the checkers."""
