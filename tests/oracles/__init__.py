"""Slow, plain definitions in NumPy float64, written from the papers' equations. They never import the package."""
