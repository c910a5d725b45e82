"""What `import repirl` gives: the names that `repirl/__init__.py` lists, frozen by `tests/test_api.py`."""
