"""Published methods written out the plain way, as peers and as references of tests."""
