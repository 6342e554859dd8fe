"""Sessions: conversations that the server keeps because a request asked for it (docs/architecture, "Sessions")."""
