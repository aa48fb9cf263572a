"""Puts this folder on the path of all tests (pytest does that for a folder with a conftest), so that helpers
such as `redis_server` can be imported from any of them."""
