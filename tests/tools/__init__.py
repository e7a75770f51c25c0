"""Tools that examine the tests."""
