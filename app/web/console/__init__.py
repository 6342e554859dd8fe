"""The console: pages that a browser shows, rendered here and helped by a few scripts of the server's own."""
