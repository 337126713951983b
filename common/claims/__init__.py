"""From claims.yaml to a record with its verdict."""
