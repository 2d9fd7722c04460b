"""HTTP in, HTTP out: a route reads the request, calls one service function and answers with what it returns."""
