"""What is wrong with configs in the wild, as a table of rules: small files by family, one table in `table`."""
