"""A closed-loop HTTP load generator: few requests in flight, many a second, every answer checked."""
