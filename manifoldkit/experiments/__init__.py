"""One module a reproduction; each returns a ``Result`` and writes a folder."""
