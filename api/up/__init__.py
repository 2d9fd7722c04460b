"""`quiver up`: every part of the service on one machine, with a PostgreSQL of its own."""
