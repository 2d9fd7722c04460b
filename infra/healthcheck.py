"""What the images' HEALTHCHECK runs, every few seconds, so it imports little: healthy is who answers 200."""

import http.client
import os
import sys

port, path = os.environ[sys.argv[1]], sys.argv[2]
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
connection.request("GET", path)
sys.exit(connection.getresponse().status != 200)
