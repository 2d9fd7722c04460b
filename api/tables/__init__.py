"""SQL, one module a table. A function runs one statement on the connection it is given."""
