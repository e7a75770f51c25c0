"""What stands beside an algorithm in a chain."""
