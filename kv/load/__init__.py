"""A closed-loop HTTP load generator: one request a connection, every answer checked."""
