"""`quiver migrate` and `quiver export`: vectors from where they are into a store, and a store into a file."""
