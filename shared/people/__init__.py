"""People: their passwords, second factors, sessions and tokens, as far as no HTTP is needed."""
