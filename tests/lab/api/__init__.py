"""Message classes generated from `tests/lab/protos`; not to be edited."""
